"""Shares of a study in processes of their own, one thread each: small networks gain little from threads inside an
operation. Progress comes back over a queue; a signal or the parent's death stops every process at a saved state.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from racecar.study.core.errors import StudyError

Advance = Callable[[int], None]
Stop = Callable[[], bool]
Share = Callable[[Any, Advance, Stop], bool]


class Stopper:
    """Becomes true at SIGINT or SIGTERM; the handlers of before come back on exit. A second signal acts at once."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self._set.is_set()

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def stop(self, *signal_and_frame: object) -> None:
        """Become true now."""
        self._set.set()

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self._set.is_set():
            raise KeyboardInterrupt
        self._set.set()


def run_shares(share: Share, arguments: Sequence[Any], advance: Advance, stop: Stop) -> bool:
    """Call ``share(argument, advance, stop)`` for every argument, in parallel if there are several.

    Args:
        share: a function at module level that trains one share; True when it is finished.
        arguments: one per process; picklable.
        advance: called here with what the shares report.
        stop: asked here; stops all shares.

    Returns:
        Whether all shares are finished.

    Raises:
        StudyError: a share failed; the others were stopped at a saved state.
    """
    if len(arguments) == 1:
        return share(arguments[0], advance, stop)
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_child, args=(share, a, i, messages, os.getpid()), daemon=False)
        for i, a in enumerate(arguments)
    ]
    for process in processes:
        process.start()
    outcome: dict[int, bool] = {}
    failure = ""
    told = False
    try:
        while len(outcome) < len(processes):
            if (stop() or failure) and not told:
                told = True
                for process in processes:
                    if process.pid is not None and process.is_alive():
                        os.kill(process.pid, signal.SIGTERM)
            try:
                kind, number, content = messages.get(timeout=0.2)
            except queue.Empty:
                for i, process in enumerate(processes):
                    if i not in outcome and process.exitcode is not None and messages.empty():
                        outcome[i] = False
                        failure = failure or f"a training process ended with code {process.exitcode}"
                continue
            if kind == "advance":
                advance(content)
            elif kind == "done":
                outcome[number] = content
            else:
                outcome[number], failure = False, content
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
    if failure:
        raise StudyError(f"training failed; finished runs are kept. {failure}")
    return all(outcome.values())


def _child(share: Share, argument: Any, number: int, messages: Any, parent: int) -> None:
    torch.set_num_threads(1)
    with Stopper() as stopper:
        # A terminal's Ctrl-C reaches every process and the parent passes it on: only the first one counts.
        signal.signal(signal.SIGINT, stopper.stop)
        signal.signal(signal.SIGTERM, stopper.stop)
        try:
            done = share(
                argument,
                lambda n: messages.put(("advance", number, n)),
                lambda: stopper() or os.getppid() != parent,
            )
            messages.put(("done", number, done))
        except BaseException as error:
            detail = "" if isinstance(error, StudyError) else "\n" + traceback.format_exc()
            messages.put(("failed", number, f"{error}{detail}"))
