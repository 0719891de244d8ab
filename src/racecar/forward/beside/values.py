"""Weights that have no values here: on the meta device, or divided among processes. The tracer reads shapes alone.

A model can so be mirrored before its weights are loaded, and while they are sharded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from racecar.errors import ArgumentError
from racecar.sharded import is_sharded


class Missing(NamedTuple):
    """The first weight of a model without values.

    Attributes:
        path: of its module.
        name: of the weight in it.
        sharded: it is divided among processes; else it is on the meta device.
    """

    path: str
    name: str
    sharded: bool


def first_missing(model: nn.Module) -> Missing | None:
    """One that is on the meta device if there is any, else one that is sharded; None: all weights have values."""
    found: Missing | None = None
    for path, module in model.named_modules():
        for name, weight in (*module._parameters.items(), *module._buffers.items()):
            if weight is not None and weight.is_meta:
                return Missing(path, name, False)
            if found is None and is_sharded(weight):
                found = Missing(path, name, True)
    return found


def check_loaded(missing: Missing | None) -> None:
    """Refuse to run a model whose weights are on the meta device.

    Raises:
        ArgumentError: naming the module.
    """
    if missing is not None and not missing.sharded:
        where = f"module {missing.path!r} of the model" if missing.path else "the model"
        raise ArgumentError(
            f"{where} has its {missing.name} on the meta device, where there are no values: give the model its weights "
            "before it is called (model.to_empty(device=...), then load_state_dict or an initialisation of your own)"
        )


def device_of(inputs: Any) -> torch.device:
    """Of the first tensor among inputs; the CPU where there is none."""
    return next((leaf.device for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)), torch.device("cpu"))


def standing_for(weight: Tensor, device: torch.device) -> Tensor:
    """A fake tensor of the weight's whole shape, in the fake mode that is entered."""
    return torch.empty(weight.shape, dtype=weight.dtype, device=device)


def without_values(weight: object) -> bool:
    """Whether a weight is on the meta device or sharded."""
    return isinstance(weight, Tensor) and (weight.is_meta or is_sharded(weight))


@contextlib.contextmanager
def stood_in_for(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While it lasts, fake tensors stand for the weights that have no values, as torch.export takes them.

    Args:
        model: is put back as it was.
        device: where it will run.
    """
    tables: list[dict[str, Any]] = [t for m in model.modules() for t in (m._parameters, m._buffers)]
    places = [(table, name, weight) for table in tables for name, weight in table.items() if without_values(weight)]
    if not places:
        yield
        return
    # As torch.export makes its own: of the inputs' sizes some vary.
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # brings sympy, which only a derivation needs

    shapes = ShapeEnv(tracked_fakes=[], prefer_deferred_runtime_asserts_over_guards=True, trace_asserts=True)
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True, export=True)
    fakes: dict[int, Tensor] = {}
    try:
        for table, name, weight in places:
            if id(weight) not in fakes:
                with mode:
                    fake = standing_for(weight, device)
                parameter = isinstance(weight, nn.Parameter)
                fakes[id(weight)] = nn.Parameter(fake, weight.requires_grad) if parameter else fake
            table[name] = fakes[id(weight)]
        yield
    finally:
        for table, name, weight in places:
            table[name] = weight
