"""From finished networks to numbers: which tuning value is chosen, and what may be said of differences.

Errors are RMSE over persistence's: 1 is the forecast that nothing moves, and less is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from racecar.study.coarse_to_fine.results import Comparison
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import Variant
from racecar.study.forecasting.config import Config
from racecar.study.forecasting.training import Job
from racecar.study.report import Verdict, inference
from racecar.study.report.inference import AgainstControls
from racecar.study.report.statistics import Summary, bounds, summarise

OUTCOMES = {"A": "A", "AB": "B, fine-tuned", "probe": "B, body frozen"}
SCRATCH = {0.0: "B from scratch", 1.0: "B from scratch, longer"}  # by its value, see Job
CLAIMED = ("Std", "Pre")  # what the authors compare with


def tuning_jobs(config: Config) -> list[Job]:
    """A network for every tuning value that is tried."""
    return [Job(v, s, 0, tuning=True) for v in map(Variant, config.variants) for s in config.strengths(v)]


def chosen(config: Config, found: Mapping[Job, Mapping[str, Any]]) -> dict[str, float]:
    """Tuning values by variant: of those that are tried the one with the lowest error on B after fine-tuning.

    Args:
        config: which were tried.
        found: by job, what :func:`racecar.study.forecasting.training.train` returned; a job that diverged has no
            ``AB``.

    Returns:
        0 for methods without one. Variants are left out whose every value diverged.
    """
    values: dict[str, float] = {}
    for variant in map(Variant, config.variants):
        if not (strengths := config.strengths(variant)):
            values[variant.name] = 0.0
            continue
        tried = {s: found[Job(variant, s, 0, tuning=True)] for s in strengths}
        errors = {s: float(m["AB"]) for s, m in tried.items() if "AB" in m}
        if errors:
            values[variant.name] = min(errors, key=lambda s: errors[s])
    return values


def decisive_jobs(config: Config, values: Mapping[str, float]) -> list[Job]:
    """The networks that are compared, low seeds first."""
    kinds = [(None, length) for length in SCRATCH] + [(Variant(name), value) for name, value in values.items()]
    return [Job(variant, value, seed) for seed in range(config.seeds) for variant, value in kinds]


@dataclass(frozen=True)
class ForecastingResults:
    """Everything the table shows.

    Attributes:
        config: of the experiment.
        found: what every job has measured, those of tuning too.
        persistence: RMSE of "nothing moves" on the test, by task, in units of density.
        persistence_validation: the same on what tuning values are chosen by.
    """

    config: Config
    found: Mapping[Job, Mapping[str, Any]]
    persistence: Mapping[str, float]
    persistence_validation: Mapping[str, float]

    @cached_property
    def values(self) -> dict[str, float]:
        """Chosen tuning values."""
        return chosen(self.config, self.found)

    @cached_property
    def variants(self) -> list[Variant]:
        """Those with a chosen value, in the order of their methods' places."""
        return sorted(map(Variant, self.values), key=lambda v: (v.method.place, v.name))

    def by_seed(self, variant: Variant | None, value: float, outcome: str) -> dict[int, float]:
        """Errors over persistence's; seeds that diverged have none."""
        unit = self.persistence["A" if outcome == "A" else "B"]
        jobs = {seed: Job(variant, value, seed) for seed in range(self.config.seeds)}
        return {s: self.found[j][outcome] / unit for s, j in jobs.items() if outcome in self.found.get(j, ())}

    def summary(self, variant: Variant | None, value: float, outcome: str) -> Summary:
        """Of :meth:`by_seed`."""
        return summarise(list(self.by_seed(variant, value, outcome).values()))

    @cached_property
    def candidate(self) -> Variant | None:
        """The racecar variant that did best in tuning."""
        ours = [v for v in self.variants if isinstance(v.method, RR)]
        return min(ours, key=lambda v: self.found[Job(v, self.values[v.name], 0, tuning=True)]["AB"], default=None)

    def compare(self, other: Variant | None, value: float, outcome: str) -> Comparison | None:
        """How much lower the candidate's error is than another's, paired by seed; None where no seed has both.

        Args:
            other, value: a method at its value, or None and which B from scratch.
            outcome: of :data:`OUTCOMES`; B from scratch is compared with fine-tuned networks.
        """
        if self.candidate is None:
            return None
        ours = self.by_seed(self.candidate, self.values[self.candidate.name], outcome)
        theirs = self.by_seed(other, value, "B" if other is None else outcome)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            return None
        a, b = [theirs[s] for s in seeds], [ours[s] for s in seeds]
        wide, narrow = inference.crossed_bootstrap(a, b), inference.crossed_bootstrap(a, b, 0.90)
        several = len(seeds) > 1
        p = inference.p_value(a, b) if several else float("nan")
        verdict = inference.judge(wide, narrow, self.config.margin) if several else "undecided"
        name = SCRATCH[value] if other is None else other.label
        return Comparison(self.candidate.label, name, outcome, wide, p, verdict)

    def comparisons(self, outcome: str) -> list[Comparison]:
        """The candidate beside every other method, and beside B from scratch where it is fine-tuned on B."""
        others: list[tuple[Variant | None, float]] = [
            (v, self.values[v.name]) for v in self.variants if v != self.candidate
        ]
        if outcome == "AB":
            others += [(None, length) for length in SCRATCH]
        return [c for other in others if (c := self.compare(*other, outcome)) is not None]

    def against(self, names: Sequence[str], outcome: str) -> AgainstControls | None:
        """The candidate against the best of some methods, by intersection and union; None where one lacks seeds."""
        if self.candidate is None or not set(names) <= self.values.keys() or self.config.seeds < 2:
            return None
        runs = [self.by_seed(Variant(n), self.values[n], outcome) for n in (self.candidate.name, *names)]
        if any(len(r) < self.config.seeds for r in runs):
            return None
        ours, *theirs = ([-r[s] for s in sorted(r)] for r in runs)  # higher is better there
        labels = [Variant(n).label for n in names]
        return inference.best_control(ours, dict(zip(labels, theirs, strict=True)))

    def verdicts(self) -> list[Verdict]:
        """The authors' claim on both tasks, and whether it is sharing weights that does it."""
        untied = [v.name for v in self.variants if v.method.untied]
        said = "lower forecast error than regular and greedy pretraining"
        rows = (
            (f"The reverse pass gives a {said}: B, fine-tuned (primary)", "arXiv 2007.00024", CLAIMED, "AB"),
            (f"The reverse pass gives a {said}: A itself", "beside it", CLAIMED, "A"),
            ("B, fine-tuned: it does so by sharing weights", "control", untied, "AB"),
        )
        return [self._verdict(claim, where, names, outcome) for claim, where, names, outcome in rows]

    def _verdict(self, claim: str, where: str, names: Sequence[str], outcome: str) -> Verdict:
        found = self.against(names, outcome) if names else None
        if found is None or self.candidate is None:
            return Verdict(claim, where, "not run", "a method was not run, diverged, or has one seed")
        evidence = (
            f"{self.candidate.label} beside {', '.join(found.differences)}; its least gain is over "
            f"{found.control}: {found.difference.mean:+.4f}, {bounds(found.difference, 4, '+')}, "
            f"n = {found.difference.n}"
        )
        if any(d.high < self.config.margin for d in found.differences.values()):
            return Verdict(claim, where, "not reproduced", evidence)
        return Verdict(claim, where, "reproduced" if found.better else "undecided", evidence)
