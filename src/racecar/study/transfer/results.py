"""From finished runs to numbers: what each method's features are worth for B, and what may be said of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from racecar.study.core.files import read_tensors
from racecar.study.core.folder import Study
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import STD, Run, Variant
from racecar.study.report import Verdict, inference
from racecar.study.report.inference import AgainstControls
from racecar.study.report.results import Results, load_metrics
from racecar.study.report.statistics import Summary, bounds, paired_difference, summarise
from racecar.study.transfer.config import TransferConfig, phase_of
from racecar.study.transfer.experiment import ANSWERS
from racecar.study.transfer.outcomes import DRAWS

PRIMARY = ("probe", "probe10")
NAMES = {
    "accuracy": "accuracy on A",
    "probe": "probe, all labels",
    "probe10": "probe, 10 labels a class",
    "cells": "probe before pooling",
    "cells10": "before pooling, 10 labels",
    "finetuned": "fine-tuned",
    "knn": "20 neighbours",
    "information": "bits on B",
    "effective_rank": "effective rank",
    "dead_units": "dead units",
}


@dataclass(frozen=True)
class Comparison:
    """The candidate, or any method, beside another one, in one outcome.

    Attributes:
        better, worse: variants' labels.
        outcome: see :data:`NAMES`.
        difference: of the two, with its 95 % interval.
        p: two-sided, not adjusted; NaN for one seed.
        verdict: better, equivalent, worse or undecided.
    """

    better: str
    worse: str
    outcome: str
    difference: Summary
    p: float
    verdict: str


@dataclass(frozen=True)
class TransferResults(Results[TransferConfig]):
    """Everything the report of one pair shows."""

    study: Study | None = field(default=None, compare=False)

    @classmethod
    def load(cls, study: Study, config: TransferConfig) -> TransferResults:
        """Read the finished runs of a configuration."""
        runs = config.runs()
        return cls(config, study.metadata(), runs, load_metrics(study, runs), study)

    # --- which runs ---------------------------------------------------------------------------------------------------

    @property
    def is_smoke_test(self) -> bool:
        """Whether nothing may be concluded: the quick preset, or one seed."""
        return self.config.seeds < 2 or "quick" in self.setting

    @property
    def scratch(self) -> list[Run]:
        """The runs of B from scratch."""
        return [r for r in self.runs if r.phase == "B"]

    def runs_of(self, variant: Variant, phase: str | None) -> list[Run]:
        """Finished runs of a variant in a phase, by seed."""
        found = [r for r in self.metrics if r.variant == variant and r.phase == phase]
        return sorted(found, key=lambda r: r.seed)

    def tuned(self, variant: Variant) -> list[Run]:
        """Finished runs with the chosen tuning value."""
        return self.runs_of(variant, self.config.tuned_phase(variant))

    @cached_property
    def judged(self) -> list[Variant]:
        """Variants with finished runs at their chosen value, in the order of their places."""
        found = [v for v in self.variants if self.tuned(v)]
        return sorted(found, key=lambda v: (v.method.place, v.name))

    @property
    def candidate(self) -> Variant | None:
        """The racecar variant of the pair's hypothesis, if it was run."""
        wanted = Variant.parse(str(self.metadata.get("candidate") or self.config.tasks.candidate or "RR1"))
        return wanted if wanted in self.judged else None

    @property
    def controls(self) -> list[Variant]:
        """All judged methods that are not racecar training."""
        return [v for v in self.judged if not isinstance(v.method, RR)]

    # --- numbers ------------------------------------------------------------------------------------------------------

    def numbers(self, runs: Sequence[Run], outcome: str) -> list[float]:
        """One outcome of some runs; those that diverged have none."""
        return [float(self.metrics[r][outcome]) for r in runs if outcome in self.metrics[r]]

    def summary(self, runs: Sequence[Run], outcome: str) -> Summary:
        """Of one outcome over seeds."""
        return summarise(self.numbers(runs, outcome))

    def answers(self, run: Run, outcome: str) -> NDArray[np.float64] | None:
        """Which test images a run gets right in an outcome, [images] from 0 to 1; None where that was not kept."""
        if self.study is None:
            return None
        path = self.study.path(run) / f"{ANSWERS}.safetensors"
        if not path.exists():
            return None
        kept = read_tensors(path)
        return kept[outcome].double().numpy() / DRAWS if outcome in kept else None

    def gain(self, variant: Variant) -> Summary | None:
        """p_AB − p_B: fine-tuned from phase I less trained from scratch on B, paired by seed; None if not run."""
        tuned, scratch = (
            {r.seed: r for r in self.tuned(variant)},
            {r.seed: r for r in self.scratch if r in self.metrics},
        )
        seeds = sorted(tuned.keys() & scratch.keys())
        if not seeds:
            return None
        after = self.numbers([tuned[s] for s in seeds], "finetuned")
        before = self.numbers([scratch[s] for s in seeds], "accuracy")
        return paired_difference(after, before) if len(after) == len(before) else None

    def _matrix(self, variant: Variant, outcome: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """[seeds, images] of answers, or [seeds] where they were not kept."""
        runs = [r for r in self.tuned(variant) if r.seed in seeds]
        rows = [self.answers(r, outcome) for r in runs]
        if rows and all(row is not None for row in rows):
            return np.stack([row for row in rows if row is not None])
        return np.array(self.numbers(runs, outcome))

    def _seeds(self, variants: Sequence[Variant], outcome: str) -> list[int]:
        """Seeds for which all of them have an outcome."""
        sets = [{r.seed for r in self.tuned(v) if outcome in self.metrics[r]} for v in variants]
        return sorted(set.intersection(*sets)) if sets else []

    def compare(self, better: Variant, worse: Variant, outcome: str) -> Comparison | None:
        """Two methods at their chosen values, paired by seed; None where no seed has both."""
        seeds = self._seeds([better, worse], outcome)
        if not seeds:
            return None
        a, b = self._matrix(better, outcome, seeds), self._matrix(worse, outcome, seeds)
        wide, narrow = inference.crossed_bootstrap(a, b), inference.crossed_bootstrap(a, b, 0.90)
        p = inference.p_value(a, b) if len(seeds) > 1 else float("nan")
        verdict = inference.judge(wide, narrow, self.config.tasks.margin) if len(seeds) > 1 else "undecided"
        return Comparison(better.label, worse.label, outcome, wide, p, verdict)

    def against_controls(self, outcome: str) -> AgainstControls | None:
        """The candidate against the best control, by intersection and union."""
        candidate = self.candidate
        if candidate is None or not self.controls:
            return None
        seeds = self._seeds([candidate, *self.controls], outcome)
        if len(seeds) < 2:
            return None
        return inference.best_control(
            self._matrix(candidate, outcome, seeds),
            {c.label: self._matrix(c, outcome, seeds) for c in self.controls},
        )

    # --- frontier -----------------------------------------------------------------------------------------------------

    def frontier(self, variant: Variant) -> list[tuple[float, Summary, Summary]]:
        """(value, accuracy on A, probe with all labels) of every tuning value with finished runs."""
        found = []
        for strength in variant.method.strengths or (0.0,):
            phase = phase_of(variant, strength) if variant.method.strengths else "A"
            if runs := self.runs_of(variant, phase):
                found.append((strength, self.summary(runs, "accuracy"), self.summary(runs, "probe")))
        return found

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The pair's hypothesis, for the probe with all labels and with ten a class."""
        return [self._hypothesis(outcome) for outcome in PRIMARY]

    def _hypothesis(self, outcome: str) -> Verdict:
        candidate = self.candidate
        name = candidate.label if candidate is not None else "RR"
        claim = f"{name} is better for B than the best control, at equal accuracy on A: {NAMES[outcome]}"
        where = "docs/plan.md"
        if self.is_smoke_test:
            return Verdict(claim, where, "not run", "a smoke test: no conclusions")
        found = self.against_controls(outcome)
        if found is None or candidate is None:
            return Verdict(claim, where, "not run", "the candidate or the controls were not run at chosen values")
        on_a = self.compare(candidate, STD, "accuracy") if STD in self.judged else None
        equal = on_a is None or on_a.difference.mean > -self.config.tasks.margin
        evidence = (
            f"{name} {self.summary(self.tuned(candidate), outcome).mean:.3f}, best control {found.control}: difference "
            f"{found.difference.mean:+.4f}, {bounds(found.difference, 4, '+')}, n = {found.difference.n} seeds × "
            f"{self._items()} test images"
        )
        if on_a is not None:
            evidence += f"; on A {name} − Std {on_a.difference.mean:+.4f}, {bounds(on_a.difference, 4, '+')}"
        if found.better and equal:
            return Verdict(claim, where, "reproduced", evidence)
        lost = found.difference.high < 0 or not equal
        return Verdict(claim, where, "not reproduced" if lost else "undecided", evidence)

    def _items(self) -> int:
        run = next(iter(self.tuned(self.judged[0])), None)
        answers = self.answers(run, "probe") if run is not None else None
        return 0 if answers is None else len(answers)

    def not_run(self) -> list[str]:
        """What this study does not show."""
        said = self.unfinished()
        if unchosen := [v.label for v in self.variants if v.method.strengths and self.config.tuned_phase(v) is None]:
            said.append(f"No tuning value chosen for {', '.join(unchosen)}: only the frontier is shown.")
        return said
