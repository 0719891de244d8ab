"""What commands share on the terminal: the progress bar, and how many processes there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from racecar.study.core.errors import StudyError

console = Console(stderr=True)
STOPPED = "racecar: stopped; what is done is kept and the same command goes on from here"


@contextmanager
def progress_bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; yields what advances it."""
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
