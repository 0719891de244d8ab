"""What commands share on the terminal: the progress bar, lines where there is none, how many processes there are."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from racecar.study.core.errors import StudyError

console = Console(stderr=True)
STOPPED = "racecar: stopped; what is done is kept and the same command goes on from here"


@contextmanager
def progress_bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; where stderr is no terminal a line now and then. Yields what advances it."""
    if not console.is_terminal:
        yield Lines(label, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console, speed_estimate_period=300) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda n: progress.update(task, advance=n)


class Lines:
    """Progress for a log file: a line where work begins and ends, and at every new per cent, a minute apart at least.

    Args:
        label: of the work.
        total: of it, in any unit.
        done: what an earlier call has done of it.
        clock: seconds.
    """

    def __init__(self, label: str, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.total, self.done, self._before, self._clock = label, total, done, done, clock
        self._began = self._last = clock()
        self._said = self._percent
        self._say("begins" if not done else f"goes on at {self._percent} %")

    def __call__(self, n: int) -> None:
        """Count work that is done."""
        self.done += n
        finished = self.done >= self.total
        if self._percent == self._said or not (finished or self._clock() - self._last >= 60):
            return
        self._said, self._last = self._percent, self._clock()
        spent = self._last - self._began
        left = spent * (self.total - self.done) / max(self.done - self._before, 1)
        rest = "" if finished else f", left {timedelta(seconds=round(left))}"
        self._say(f"{self._percent} %, {timedelta(seconds=round(spent))}{rest}")

    @property
    def _percent(self) -> int:
        return 100 * self.done // max(self.total, 1)

    def _say(self, text: str) -> None:
        log_line(f"{self.label}: {text}")


def log_line(text: str) -> None:
    """A line for a log file, on stderr; nothing on a terminal, where a progress bar moves."""
    if not console.is_terminal:
        print(text, file=sys.stderr, flush=True)


def worker_count(asked: int | None) -> int:
    """How many training processes: what was asked for, else one on an accelerator, else one per core, two at most.

    Raises:
        StudyError: fewer than one.
    """
    if asked is not None and asked < 1:
        raise StudyError(f"--workers must be at least 1, not {asked}")
    # Those that this process may use: more threads than these wait for one another, and a step takes seconds.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked or (1 if torch.cuda.is_available() else min(2, cores))
    # Nor more than torch has now: OMP_NUM_THREADS is the word of the user, or of a launcher that starts many processes.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores // workers)))
    return workers
