"""Greedy pretraining of a network's layers as auto-encoders (Bengio et al. 2007): what the method Pre begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import racecar
from racecar.study.core.callbacks import QUIET, Callbacks


def pretrain(
    model: nn.Module,
    example: Tensor,
    batches: Callable[[], Iterable[Tensor]],
    *,
    depth: int,
    start: str | None,
    rate: float,
    precision: torch.dtype | None = None,
    callbacks: Callbacks = QUIET,
) -> bool:
    """Train one layer after the other to be undone by its own transpose, the layers before it held.

    Args:
        model: its weights change.
        example: a batch.
        batches: what every layer is trained on, anew for each.
        depth: how many layers, from the input on.
        start: where the reverse pass begins, see :class:`racecar.Racecar`.
        rate: of Adam.
        precision: of autocast; None: as the weights are.
        callbacks: ``advance`` is told of every step, ``stop`` is asked.

    Returns:
        Whether it came to its end.
    """
    rr = racecar.Racecar(model, example, layers=depth, start=start, layerwise=True)
    model.train()
    for number, name in enumerate(rr.layers):
        rr.lambdas = torch.zeros_like(rr.lambdas).index_fill(0, torch.tensor(number, device=rr.lambdas.device), 1.0)
        optimiser = torch.optim.Adam(model.get_submodule(name).parameters(), rate)
        for inputs in batches():
            with torch.autocast(inputs.device.type, precision, enabled=precision is not None):
                _, penalty = rr(inputs)
            optimiser.zero_grad()
            penalty.backward()
            optimiser.step()
            callbacks.advance(1)
            if callbacks.stop():
                return False
    for parameter in model.parameters():
        parameter.grad = None
    return True
