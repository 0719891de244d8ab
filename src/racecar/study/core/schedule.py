"""A study's runs divided among processes, and how much of the work is done: for progress bars that know the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from racecar.study.core.files import is_count
from racecar.study.core.folder import Study
from racecar.study.core.variants import START, Run

Cost = Callable[[Run], int]  # expected work of a run, in any unit


def chains(runs: Sequence[Run], cost: Cost, workers: int) -> list[list[Run]]:
    """Divide the runs among processes: a variant and seed stay together, the longest chains are placed first.

    Where all variants of a seed begin with one model (``A-start``), a seed stays together.
    """
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    common = any(r.phase == START for r in runs)
    for run in runs:
        key = (run.seed,) if common else (run.variant, run.seed, run.path if run.path.startswith("B") else "")
        grouped.setdefault(key, []).append(run)
    shares: list[list[Run]] = [[] for _ in range(max(1, min(workers, len(grouped))))]
    load = [0] * len(shares)
    for chain in sorted(grouped.values(), key=lambda c: -sum(map(cost, c))):
        least = load.index(min(load))
        shares[least] += chain
        load[least] += sum(map(cost, chain))
    # Low seeds first: an interrupted study has all variants of some seeds.
    return [sorted(s, key=lambda r: (r.seed, r.phase != START, len(r.path), r.variant)) for s in shares]


def work(study: Study, runs: Sequence[Run], cost: Cost) -> tuple[int, int]:
    """(all, already done) in the unit of ``cost``.

    Saved states say ``run``, ``step`` and ``total``; and ``before`` and ``after`` where a run does more than its steps.
    """
    done = {r: cost(r) for r in runs if study.finished(r)}
    unfinished = {r.key: r for r in runs if r not in done}
    for state in study.progress_notes():
        step, total = state.get("step"), state.get("total")
        if (run := unfinished.get(str(state.get("run")))) is not None and is_count(step) and is_count(total) and total:
            before, after = (state[k] if is_count(state.get(k)) else 0 for k in ("before", "after"))
            done[run] = before + round(max(0, cost(run) - before - after) * min(1.0, step / total))
    return sum(map(cost, runs)), sum(done.values())


@dataclass(frozen=True)
class ByCost:
    """Divides a study's runs by what each costs: see :class:`racecar.study.studies.Division`.

    Attributes:
        cost: expected work of a run of a configuration, in any unit.
    """

    cost: Callable[[Any, Run], int]

    def divide(self, config: Any, workers: int) -> list[list[Run]]:
        """All runs of a configuration, see :func:`chains`."""
        return chains(config.runs(), partial(self.cost, config), workers)

    def work(self, study: Study, config: Any, runs: Sequence[Run]) -> tuple[int, int]:
        """(all, already done) of some runs, see :func:`work`."""
        return work(study, runs, partial(self.cost, config))


class Units:
    """Turns a run's steps into the unit of its cost.

    Args:
        cost: of the run.
        total: its steps.
        done: those already done.
        advance: told of finished units.
    """

    def __init__(self, cost: int, total: int, done: int, advance: Callable[[int], None]) -> None:
        self.cost, self.total, self.step, self.advance = cost, total, done, advance
        self.told = round(cost * done / total)

    def __call__(self, steps: int) -> None:
        """Count steps that are done, and tell of the units that they finish."""
        self.step += steps
        self._tell(round(self.cost * self.step / self.total))

    def finish(self) -> None:
        """A run that ended early counts as done."""
        self._tell(self.cost)

    def _tell(self, now: int) -> None:
        if now > self.told:
            self.advance(now - self.told)
            self.told = now
