"""Activation checkpointing inside a model: the graph keeps what the forward pass keeps, whatever the model asked for.

The reentrant form, still torch's default, is an ``autograd.Function`` that runs its part without gradients and again in
the backward pass: exported as it is, the weights in it would have no gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint


class _Inlined:
    """In place of torch's ``CheckpointFunction``."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_random_state: bool, *args: Any) -> Any:
        return function(*args)


@contextlib.contextmanager
def checkpoints_inlined() -> Iterator[None]:
    """While it lasts, reentrant checkpoints call their function."""
    module: Any = torch.utils.checkpoint
    original = module.CheckpointFunction
    module.CheckpointFunction = _Inlined
    try:
        yield
    finally:
        module.CheckpointFunction = original
