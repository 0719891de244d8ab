"""From finished chains to numbers: accuracy and rank by task, means over tasks, what differs from what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.plasticity.config import CHOSEN, FIRST, PlasticityConfig, strengths
from racecar.study.report.inference import crossed_bootstrap, holm, judge, p_value
from racecar.study.report.results import Results, load_metrics
from racecar.study.report.statistics import Summary, clipped, summarise

DELTA = 0.01  # a difference of mean accuracy that does not matter (docs/plan.md)
LEVEL = 0.05


@dataclass(frozen=True)
class Chain:
    """A method at one of its values.

    Attributes:
        variant: the method.
        phase: of its runs.
        value: the tuning value; None where there is none.
    """

    variant: Variant
    phase: str
    value: float | None

    @property
    def first(self) -> bool:
        """Whether the penalty acts in the first tenth of the tasks alone."""
        return self.phase.endswith(FIRST)

    @property
    def name(self) -> str:
        """In tables, without the value: ``"RR^3"``, ``"RR^3, first tenth"``."""
        return self.variant.label + (", first tenth" if self.first else "")

    @property
    def setting(self) -> str:
        """The value with its unit."""
        return "" if self.value is None else f"{self.variant.method.unit} {self.value:g}"


@dataclass(frozen=True)
class Comparison:
    """A difference of mean accuracy.

    Attributes:
        statement: which, ``"RR^3 − Dec^3"``.
        primary: whether it is the plan's hypothesis.
        difference: with its 95 % interval; None: one of both was not run.
        p: adjusted for the number of comparisons that are not primary; None for fewer than two seeds.
        verdict: better, equivalent, worse, undecided; "not run".
    """

    statement: str
    primary: bool
    difference: Summary | None
    p: float | None
    verdict: str


@dataclass(frozen=True)
class PlasticityResults(Results[PlasticityConfig]):
    """Everything the tables and figures of the study show."""

    source = "Tasks of {}: {}."

    @classmethod
    def load(cls, study: Study, config: PlasticityConfig) -> PlasticityResults:
        """Read the finished runs of a configuration."""
        runs = config.runs()
        return cls(config, study.metadata(), runs, load_metrics(study, runs))

    # --- which chains there are ---------------------------------------------------------------------------------------

    @property
    def chains(self) -> list[Chain]:
        """All that are asked for, by method and value."""
        found = {(r.variant, r.phase): Chain(r.variant, r.phase, self.config.value(r)) for r in self.runs}
        return sorted(found.values(), key=lambda c: (c.variant.method.place, c.variant, c.first, c.phase))

    @property
    def shown(self) -> list[Chain]:
        """Each method once in curves and means: at its chosen value; where none is, at the best of those that ran."""
        best: list[Chain] = []
        for variant in self.variants:
            for first in (False, True):
                all_of = [c for c in self.chains if c.variant == variant and c.first == first]
                of = [c for c in all_of if self._is_chosen(c)] or [c for c in all_of if self.of_chain(c)]
                if of:
                    best.append(max(of, key=lambda c: self.summary(c).mean if self.of_chain(c) else -1.0))
        return sorted(best, key=self.chains.index)

    def _is_chosen(self, chain: Chain) -> bool:
        if not strengths(chain.variant.method):
            return True
        return bool(self.config.chosen) and chain.phase.startswith(f"A-{self.config.number(chain.variant)}")

    @property
    def exploratory(self) -> bool:
        """Whether a method was given another value than the tuning sequence has chosen."""
        return any(CHOSEN.get(name) != value for name, value in self.config.chosen.items())

    @property
    def tuned(self) -> list[Variant]:
        """Methods of which more than one value was run."""
        return [v for v in self.variants if sum(c.variant == v and not c.first for c in self.chains) > 1]

    # --- numbers ------------------------------------------------------------------------------------------------------

    def of_chain(self, chain: Chain) -> list[Run]:
        """Its finished runs, by seed."""
        return sorted(r for r in self.metrics if (r.variant, r.phase) == (chain.variant, chain.phase))

    def numbers(self, chain: Chain, name: str = "accuracy") -> list[float]:
        """One number of every finished run, by seed."""
        return [float(self.metrics[r][name]) for r in self.of_chain(chain)]

    def summary(self, chain: Chain, name: str = "accuracy") -> Summary:
        """n, mean, deviation and interval over seeds."""
        found = summarise(self.numbers(chain, name))
        return clipped(found) if name in ("accuracy", "last_fifth") else found

    def by_task(self, chain: Chain, name: str) -> NDArray[np.float64]:
        """What was measured after every task, [seeds, tasks]; NaN for tasks that a diverged run did not come to."""
        found = np.full((len(self.of_chain(chain)), self.config.tasks), np.nan)
        for row, run in enumerate(self.of_chain(chain)):
            values = [point[name] for point in self.metrics[run]["history"]]
            found[row, : len(values)] = values
        return found

    def late(self, chain: Chain, name: str) -> Summary:
        """A measurement's mean over the last fifth of the tasks, over seeds."""
        values = self.by_task(chain, name)[:, -max(1, self.config.tasks // 5) :]
        rows = [row[np.isfinite(row)] for row in values]
        return summarise([float(row.mean()) for row in rows if len(row)])

    def best_values(self) -> dict[str, float]:
        """The value with the highest mean accuracy of every method of which several were run."""
        found = {}
        for variant in self.tuned:
            of = [c for c in self.chains if c.variant == variant and not c.first and self.of_chain(c)]
            if of:
                best = max(of, key=lambda c: self.summary(c).mean)
                assert best.value is not None
                found[variant.name] = best.value
        return found

    # --- comparisons --------------------------------------------------------------------------------------------------

    def comparisons(self) -> list[Comparison]:
        """The plan's hypothesis, then RR^s against every other chain that is shown, corrected for their number."""
        shown = {c.name: c for c in self.shown}
        pairs = [("RR^3", "Dec^3")]
        pairs += [("RR^3", other) for other in ("Std", "StdC", "Ort", "L2Init", "SP", "Reset", "RR^1")]
        pairs += [("RR^1", "Dec^1"), ("RR^1", "Std"), ("Dec^3", "Std"), ("Dec^1", "Std")]
        pairs += [(f"{n}, first tenth", other) for n in ("RR^3", "Dec^3") for other in ("Std", n)]
        pairs += [("RR^3", "Dec^1")] if self.exploratory else []  # not among those fixed before the runs
        pairs = [pair for i, pair in enumerate(pairs) if i == 0 or set(pair) <= shown.keys()]
        samples = [self._paired(*(shown.get(n) for n in pair)) for pair in pairs]
        raw = {i: p_value(*s) for i, s in enumerate(samples) if len(s[0]) > 1}
        others = [i for i in raw if i or self.exploratory]
        adjusted = raw | dict(zip(others, holm([raw[i] for i in others]), strict=True))
        first = not self.exploratory  # the hypothesis is one on the values that the tuning sequence has chosen
        return [
            self._compared(" − ".join(pair), first and i == 0, *samples[i], adjusted.get(i))
            for i, pair in enumerate(pairs)
        ]

    def _paired(self, a: Chain | None, b: Chain | None) -> tuple[list[float], list[float]]:
        """Mean accuracies over the tasks, for the seeds that both have."""
        if a is None or b is None:
            return [], []
        ours, theirs = ({r.seed: float(self.metrics[r]["accuracy"]) for r in self.of_chain(c)} for c in (a, b))
        seeds = [s for s in ours if s in theirs]
        return [ours[s] for s in seeds], [theirs[s] for s in seeds]

    @staticmethod
    def _compared(
        statement: str, primary: bool, ours: Sequence[float], theirs: Sequence[float], p: float | None
    ) -> Comparison:
        if not ours:
            return Comparison(statement, primary, None, None, "not run")
        difference = crossed_bootstrap(ours, theirs)
        verdict: str = judge(difference, crossed_bootstrap(ours, theirs, 0.9), DELTA)
        if verdict in ("better", "worse") and (p is None or p >= LEVEL):
            verdict = "undecided"
        return Comparison(statement, primary, difference, p, verdict)

    def unfinished(self) -> list[str]:
        """A sentence for every chain that lacks seeds."""
        found = []
        for chain in self.chains:
            wanted = sum((r.variant, r.phase) == (chain.variant, chain.phase) for r in self.runs)
            if (count := len(self.of_chain(chain))) < wanted:
                words = " ".join(filter(None, (chain.name, chain.setting)))
                found.append(f"{words}: {count} of {wanted} seeds finished.")
        return found
