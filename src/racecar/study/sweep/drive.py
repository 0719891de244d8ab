"""Keeps as many workers at a sweep's jobs as there is work for, and tells how far all of them are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from racecar.study.core.errors import StudyError
from racecar.study.core.locks import Locks
from racecar.study.core.processes import Advance, Stop
from racecar.study.core.terminal import console
from racecar.study.sweep.workers import Engine, Job

MOST_KILLED = 3  # workers without a run finished in between, hung ones too: then it is not bad luck


def drive(
    engine: Engine,
    jobs: Sequence[Job],
    locks: Locks,
    workers: int,
    work: dict[str, tuple[int, int]],
    advance: Advance,
    stop: Stop,
) -> bool:
    """Until all jobs are finished; whether they are.

    Args:
        engine: starts and counts workers.
        jobs: all of the sweep.
        locks: who has which.
        workers: how many at most.
        work: by the jobs' names, (all, already done) when it began.
        advance: told of work done here and elsewhere.
        stop: asked several times a second.

    Raises:
        StudyError: a worker failed, or one after the other was killed.
    """
    killed, before = 0, len(jobs)
    hung: set[str] = set()
    shown = sum(done for _, done in work.values())
    try:
        while True:
            pending = [j for j in jobs if not j.finished]
            states = {j.name: locks.state(j.name) for j in pending}
            now = sum(total for total, _ in work.values())
            for name, state in states.items():
                now += (state.done if state.number >= 0 else work[name][1]) - work[name][0]
            advance(now - shown)
            shown = now
            if not pending:
                engine.finish()
                return True
            if stop():
                _end(engine)
                return False
            for state in states.values():
                if state.silent and state.holder not in hung and engine.end(state.holder):
                    hung.add(state.holder)
                    console.print(
                        f"racecar: a worker gives no sign of life and is ended ({state.holder}): no step for "
                        f"{locks.stall / 60:g} minutes, or its machine is gone"
                    )
            killed, before = (killed, before) if len(pending) == before else (0, len(pending))
            living, lost = engine.count()
            if lost:
                killed += lost
                console.print("racecar: a worker was killed; what it had not finished is taken over")
            if killed > MOST_KILLED:
                raise StudyError(
                    f"{killed} workers were killed and no run was finished in between (out of memory? do they hang?); "
                    "finished runs are kept"
                )
            free = sum(s.open for s in states.values())
            idle = max(0, living - (len(states) - free))  # started, and on the way to their first job
            for _ in range(min(workers - living, free - idle)):
                engine.start()
            time.sleep(0.3)
    except BaseException:
        _end(engine)
        raise


def _end(engine: Engine) -> None:
    if said := engine.stop():
        console.print(said, markup=False, highlight=False, soft_wrap=True)
