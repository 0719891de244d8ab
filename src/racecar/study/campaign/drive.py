"""Runs the items in order of value as long as the budget lasts, one at a time, each in processes of its own.

What fits is run first, in order; then the rest of the budget goes to the first item that did not fit and can go on next
time. An item that takes longer than the budget is stopped as Ctrl-C would stop it.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from racecar.study.campaign.items import Command, Item
from racecar.study.campaign.state import CUT, DONE, FAILED, RUNNING, Record, State, new, words, written
from racecar.study.core.environment import revision
from racecar.study.core.terminal import console, progress_bar

LEAST = 60.0  # seconds: with less left nothing long is begun
GRACE = 60.0  # seconds in which a stopped command keeps its state
Stop = Callable[[], bool]


@dataclass
class Outcome:
    """Of one call.

    Attributes:
        ran: names of the items that were begun.
        left: why an item was not, by name.
        stopped: whether a signal ended it.
    """

    ran: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def drive(
    items: Sequence[Item],
    estimates: Mapping[str, float],
    state: State,
    results: Path,
    budget: float,
    stop: Stop,
    least: float = LEAST,
) -> Outcome:
    """Run what is not done.

    Args:
        items: the most valuable first.
        estimates: seconds by an item's name.
        state: is written after each.
        results: folder of tables and figures.
        budget: seconds for all of them.
        stop: asked all the time; where it is true, the running item is stopped, and nothing more is begun.
        least: see :data:`LEAST`.
    """
    end = time.monotonic() + budget
    found = Outcome()
    todo = [item for item in items if not state.done(item)]
    long = []
    for item in todo:
        left = end - time.monotonic()
        if stop():
            found.left[item.name] = "stopped before"
        elif estimates[item.name] <= left:
            found.ran.append(item.name)
            _run(item, estimates[item.name], state, results, end, stop)
        else:
            found.left[item.name] = f"about {clock(estimates[item.name])}, {clock(max(left, 0))} were left"
            long.append(item)
    for item in long:
        if item.resumes and not stop() and end - time.monotonic() >= least:
            found.ran.append(item.name)
            del found.left[item.name]
            console.print(f"{item.name} takes longer than is left: it has the rest, and goes on next time")
            _run(item, estimates[item.name], state, results, end, stop)
    found.stopped = stop()
    return found


def clock(seconds: float) -> str:
    """For a reader: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _run(item: Item, estimate: float, state: State, results: Path, end: float, stop: Stop) -> None:
    """One item, to its end, to the budget's, or until it is to stop; its record says which."""
    record = state.of(item) or Record(words(item), estimate=round(estimate, 1))
    state.records[item.name] = record
    record.status, record.error = RUNNING, ""
    # Not by environment(): this process must hold nothing of a card that may be for one process alone.
    record.about = {"torch": str(torch.__version__), "python": platform.python_version(), "revision": revision()}
    before, spent, began = written(results), record.seconds, time.monotonic()
    console.print(f"{item.name}: about {clock(estimate)}, {clock(end - began)} left in all", highlight=False)

    def note() -> None:
        record.seconds = round(spent + time.monotonic() - began, 2)
        state.save()

    log = state.path.parent / f"{item.name}.log"
    code = 0
    total, told = max(1, round(min(estimate, end - began))), 0
    with progress_bar(item.name, total, 0) as advance:

        def tick() -> None:
            nonlocal told
            now = min(round(time.monotonic() - began), total - 1)  # the whole is reached when it ends
            if now > told:
                advance(now - told)
                told = now

        for command in item.commands:
            code = _call(command, log, record, end, stop, note, tick)
            if code or record.status == CUT:
                break
        else:
            advance(total - told)
    files = [*record.files, *new(before, written(results))]
    record.files, record.process = sorted(dict.fromkeys(files)), 0
    if record.status != CUT:
        record.status = DONE if code == 0 and item.table.exists() else FAILED
    if record.status == FAILED:
        record.error = f"it ended with {code}: {_last(log)}" if code else f"it wrote no {item.table}"
    note()
    console.print(
        f"{item.name}: {record.status}, {clock(time.monotonic() - began)}{'; ' if record.error else ''}{record.error}"
        f"{f' (all of it: {log})' if record.error else ''}",
        highlight=False,
        markup=False,
    )


def _call(
    command: Command,
    log: Path,
    record: Record,
    end: float,
    stop: Stop,
    note: Callable[[], None],
    tick: Callable[[], None],
) -> int:
    """One command; its exit code. Stopped, the record says that it was cut off."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            _started(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    record.process = process.pid
    note()
    saved = time.monotonic()
    try:
        while True:
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            tick()
            if now - saved > 30:  # so that a kill loses no more of the seconds
                saved = now
                note()
            if stop() or now > end:
                record.status = CUT
                return _end(process)
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Stop it and what it has started as a terminal's Ctrl-C would; after a grace, at once."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            return process.wait(patience)
        except ProcessLookupError:
            return process.wait()
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


# If the campaign is killed, Linux interrupts its command, which keeps its state: it would train on, unseen. Started in
# the background of a script, the campaign ignores SIGINT; its command must not.
_TIED = """import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, signal.SIGINT)
if os.getppid() != int(sys.argv[1]): sys.exit(130)
os.execv(sys.argv[2], sys.argv[2:])"""


def _started(command: Command) -> list[str]:
    """The command by this Python, tied to this process's life."""
    first = {"racecar": [sys.executable, "-m", "racecar_command"], "python": [sys.executable]}[command[0]]
    plain = [*first, *command[1:]]
    return [sys.executable, "-c", _TIED, str(os.getpid()), *plain] if sys.platform == "linux" else plain


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
