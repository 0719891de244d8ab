"""What a program was derived for and a user may change between two calls: modes, attributes, hooks, ties of weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from racecar.forward.beside.carried import Carried
from racecar.forward.beside.state import attributes
from racecar.forward.hooks import HOOKS, users_hooks

_MISSING = object()


class Configuration:
    """A model at the moment of a derivation.

    Args:
        model: all of its modules are watched, whoever has written them: numbers, words and flags among their
            attributes, which parameters and buffers there are, and which of them are one.
        carried: what the model's own forward changes, which is watched by nobody.
    """

    def __init__(self, model: nn.Module, carried: Carried) -> None:
        own = {(path, name) for path, name, *_ in (*carried.places, *carried.constants)}
        self._modules = _modules(model)
        self._ties = _ties(model)
        self._settings = [
            (module, name, value)
            for path, module in model.named_modules()
            for name, value in attributes(module).items()
            if (path, name) not in own and _plain(value)
        ]
        # None or there: a bias that is taken away, a buffer that is filled in the first call.
        self._tables = [
            (module, kind, name, value is None)
            for path, module in model.named_modules()
            for kind in ("_parameters", "_buffers")
            for name, value in getattr(module, kind).items()
            if (path, name) not in own
        ]

    def holds(self, model: nn.Module) -> bool:
        """Whether the model is as it was."""
        return (
            self._modules == _modules(model)
            and all(
                (now := vars(module).get(name, _MISSING)) is value or _equal(now, value)
                for module, name, value in self._settings
            )
            and all(
                (now := getattr(module, kind).get(name, _MISSING)) is not _MISSING and (now is None) == missing
                for module, kind, name, missing in self._tables
            )
            and self._ties == _ties(model)
        )


def _plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return len(value) < 100 and all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _equal(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def _modules(model: nn.Module) -> Any:
    return tuple((m, m.training, *(len(users_hooks(m, kind)) for kind in HOOKS)) for m in model.modules()), next(
        ((p.device, p.dtype) for p in model.parameters()), None
    )


def _ties(model: nn.Module) -> tuple[int, ...]:
    """For every name of a parameter the first position at which the same one stands."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(p), i) for i, p in enumerate(_parameters(model)))


def _parameters(model: nn.Module) -> Iterator[Tensor | None]:
    for module in model.modules():
        yield from module._parameters.values()
