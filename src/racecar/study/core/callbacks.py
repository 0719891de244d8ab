"""What a training tells and asks while it runs: one object in place of a handful of arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from racecar.study.core.checkpoints import Progress


def _nothing(*args: Any) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Callbacks:
    """What is called during training; by default nothing happens, and it runs to its end.

    Attributes:
        advance: told of the work just done, in units that the training names.
        save: given the state every ``save_every`` seconds and when stopped.
        stop: asked after every step whether to stop at a saved state.
        note: told of what was measured: the arguments are the training's.
        save_every: seconds.
        alive: told that something was done which is no unit of the work, such as a batch of an evaluation.
    """

    advance: Callable[[int], None] = _nothing
    save: Callable[[Progress], None] = _nothing
    stop: Callable[[], bool] = _never
    note: Callable[..., None] = _nothing
    save_every: float = 60.0
    alive: Callable[[], None] = _nothing


QUIET = Callbacks()


class Timer:
    """Says when the next state is due to be saved."""

    def __init__(self, every: float) -> None:
        self._every, self._last = every, time.monotonic()

    @property
    def due(self) -> bool:
        """Whether ``every`` seconds have passed since it was made or restarted."""
        return time.monotonic() - self._last > self._every

    def restart(self) -> None:
        """A state has just been saved."""
        self._last = time.monotonic()
