"""What every ``racecar study`` does once its folder is open: train what is missing, report, say how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from racecar.study.commands.report import write_report
from racecar.study.core.folder import Study
from racecar.study.core.processes import Share, Stopper, run_shares
from racecar.study.core.terminal import STOPPED, progress_bar
from racecar.study.core.variants import Run


@dataclass(frozen=True)
class Prepared:
    """A study whose folder is open and holds the data: what is left is to train.

    Attributes:
        study: its folder.
        runs: all of them.
        share: trains one argument, see :data:`racecar.study.core.processes.Share`.
        divide: arguments for at most so many processes, each with its runs.
        work: (all, already done) of some runs, in any unit.
    """

    study: Study
    runs: Sequence[Run]
    share: Share
    divide: Callable[[int], list[tuple[list[Run], Any]]]
    work: Callable[[Sequence[Run]], tuple[int, int]]

    def carry_out(self, workers: int) -> int:
        """Train what is missing in so many processes and write the report."""
        arguments = [argument for _, argument in self.divide(workers)]
        return carry_out(self.study, f"{len(self.runs)} networks", self.work(self.runs), self.share, arguments)


def carry_out(study: Study, label: str, work: tuple[int, int], share: Share, arguments: Sequence[Any]) -> int:
    """Run the shares under a progress bar and write the report.

    Args:
        study: its folder.
        label: of the bar.
        work: (all, already done); nothing is started where they are equal.
        share, arguments: as for :func:`racecar.study.core.processes.run_shares`.

    Returns:
        The exit code: 0, or 130 if it was stopped.
    """
    study.remove_leftovers()
    total, done = work
    started = time.monotonic()
    complete = True
    if done < total:
        with Stopper() as stop, progress_bar(label, total, done) as advance:
            complete = run_shares(share, arguments, advance, stop)
        study.add_seconds(time.monotonic() - started)
    path = write_report(study.folder)
    if not complete:
        print(STOPPED, file=sys.stderr)
        return 130
    print(f"report: {path}")
    return 0
