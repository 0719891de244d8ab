"""Values that a forward keeps on ``self``: an auxiliary loss, attention weights, sizes. Carried out of the graph.

``torch.export`` would leave them behind as fake tensors. Here the traced forward returns them beside its output, and a
program sets them again at every call, as the model does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.utils._pytree as pytree
from torch import nn

from racecar.errors import ExportError
from racecar.forward.beside.state import Change, State


@dataclass
class Carried:
    """Where what a forward keeps belongs.

    Attributes:
        places: (path of the module, name, whether it is a buffer) of each value that the graph computes.
        constants: (path, name, value) of numbers and words that every call sets to the same.
    """

    places: list[tuple[str, str, bool]] = field(default_factory=list)
    constants: list[tuple[str, str, Any]] = field(default_factory=list)
    spec: Any = None  # how the values nest

    def __bool__(self) -> bool:
        return bool(self.places or self.constants)

    def set(self, model: nn.Module, leaves: Sequence[Any]) -> None:
        """Keep the values of one call, flat, on the model's modules."""
        values = pytree.tree_unflatten(list(leaves), self.spec) if self.places else []
        for (path, name, buffer), value in zip(self.places, values, strict=True):
            module = model.get_submodule(path)
            (module._buffers if buffer else vars(module))[name] = value
        for path, name, value in self.constants:
            vars(model.get_submodule(path))[name] = value


@contextlib.contextmanager
def carry(model: nn.Module, constants: list[Change]) -> Iterator[Carried]:
    """While it lasts, ``model.forward`` returns (its output, a list of what it has kept), and keeps nothing.

    Args:
        model: to be traced.
        constants: what the rehearsal has seen set to numbers or words.

    Raises:
        ExportError: from the forward: it changes numbers, words or containers once more, which no graph can.
    """
    carried = Carried(constants=[(c.path, c.name, c.now) for c in constants])
    original, own = model.forward, vars(model).get("forward")
    held = State(model)
    for change in constants:
        vars(change.module)[change.name] = change.now

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        state = State(model)
        try:
            output = original(*args, **kwargs)
            changes = list(state.changes())
        finally:
            state.restore()
        kept = [c for c in changes if c.kind != "inside" and c.traced]
        if lost := [c for c in changes if c not in kept and not c.new]:
            shown = ", ".join(f"self.{c.place}" for c in lost[:5])
            raise ExportError(
                f"the forward of {type(model).__name__} changes {shown} at every call, which a graph cannot: count "
                "in a buffer (register_buffer, self.steps.add_(1)), set lists anew instead of appending to them, or "
                "change them outside of forward"
            )
        carried.places[:] = [(c.path, c.name, c.kind == "buffer") for c in kept]
        made = [(c.path, c.name, c.now) for c in changes if c not in kept and c.kind == "attribute"]
        carried.constants[len(constants) :] = made
        return output, [c.now for c in kept]

    vars(model)["forward"] = forward
    try:
        yield carried
    finally:
        if own is None:
            del vars(model)["forward"]
        else:
            vars(model)["forward"] = own
        held.restore()
