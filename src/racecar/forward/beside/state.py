"""What a model keeps on its modules besides parameters: attributes, containers, buffers; taken down and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
# Hooks, modes, tables of parameters and buffers; and the list of its own parameters that an RNN makes at every call.
_OF_TORCH = frozenset(vars(nn.Module())) | {"forward", "_flat_weights", "_flat_weight_refs"}


@dataclass(frozen=True)
class Change:
    """Something on a module that is not what it was.

    Attributes:
        path, module: where.
        name: of the attribute or buffer.
        kind: ``"attribute"`` and ``"buffer"``: another object; ``"inside"``: a list, dict or set changed in place.
        then, now: its values, :data:`MISSING` for none; of a container its content then.
    """

    path: str
    module: nn.Module
    name: str
    kind: Literal["attribute", "inside", "buffer"]
    then: Any
    now: Any

    @property
    def new(self) -> bool:
        """Whether it was made: None or missing before."""
        return (self.then is MISSING or self.then is None) and self.now is not MISSING

    @property
    def traced(self) -> bool:
        """Whether the value now holds tensors or sizes, which a graph can compute."""
        return any(isinstance(leaf, Tensor | torch.SymInt | torch.SymFloat) for leaf in pytree.tree_leaves(self.now))

    @property
    def place(self) -> str:
        """For messages: ``"block.counter"``."""
        return f"{self.path}.{self.name}" if self.path else self.name


class State:
    """Attributes and buffers of all modules at one moment.

    Args:
        model: its modules are remembered by identity.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(path, module, attributes(module), dict(module._buffers)) for path, module in _modules(model)]
        self._inside = {
            id(value): (value, _copied(value))
            for _, _, held, _ in self._modules
            for value in held.values()
            if type(value) in (list, dict, set)
        }

    def changes(self) -> Iterator[Change]:
        """All that is not what it was; values that are equal numbers, strings or flags are no change."""
        for path, module, held, buffers in self._modules:
            now = attributes(module)
            for name in dict.fromkeys([*held, *now]):
                usual = getattr(type(module), name, MISSING)  # an attribute of the class is there before it is set
                a, b = held.get(name, usual), now.get(name, usual)
                if a is not b:
                    if not (type(a) is type(b) and isinstance(a, bool | int | float | str | bytes) and a == b):
                        yield Change(path, module, name, "attribute", a, b)
                elif id(a) in self._inside and not _alike(self._inside[id(a)][1], a):
                    yield Change(path, module, name, "inside", self._inside[id(a)][1], a)
            for name in dict.fromkeys([*buffers, *module._buffers]):
                a, b = buffers.get(name, MISSING), module._buffers.get(name, MISSING)
                if a is not b:
                    yield Change(path, module, name, "buffer", a, b)

    def _held(self, change: Change) -> Any:
        return next(held for _, module, held, _ in self._modules if module is change.module).get(change.name, MISSING)

    def restore(self, *, keep_new: bool = False) -> None:
        """Put everything back; with ``keep_new``, what was made since and new keys of dicts stay."""
        for change in list(self.changes()):
            if keep_new and (change.new or (change.kind == "inside" and _only_grown(change.then, change.now))):
                continue
            if change.kind == "buffer":
                _put(change.module._buffers, change.name, change.then)
            elif change.kind == "attribute":
                _put(vars(change.module), change.name, self._held(change))
        for container, content in self._inside.values():
            if not _alike(content, container) and not (keep_new and _only_grown(content, container)):
                _refill(container, content)


@contextlib.contextmanager
def own_buffers(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model updates copies of its buffers: not even their version counters move."""
    tables = [module._buffers for module in model.modules()]
    held = [(table, name, buffer) for table in tables for name, buffer in table.items() if buffer is not None]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in held}
    try:
        for table, name, buffer in held:
            table[name] = copies[id(buffer)]
        yield
    finally:
        for table, name, buffer in held:
            table[name] = buffer


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return iter(model.named_modules())


def attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds under its own names, beside what every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH}


def _copied(value: Any) -> Any:
    return value.copy()


def _alike(a: Any, b: Any) -> bool:
    """Whether two containers hold the same objects."""
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(k in b and a[k] is b[k] for k in a)
    if isinstance(a, set):
        return a == b
    return all(x is y for x, y in zip(a, b, strict=True))


def _only_grown(then: Any, now: Any) -> bool:
    return isinstance(then, dict) and isinstance(now, dict) and all(k in now and now[k] is v for k, v in then.items())


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if value is MISSING:
        table.pop(name, None)
    else:
        table[name] = value
