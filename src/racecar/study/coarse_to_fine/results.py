"""From finished runs to numbers: what each method's features are worth for B, and what may be said of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from racecar.study.coarse_to_fine.config import TransferConfig, phase_of
from racecar.study.coarse_to_fine.experiment import ANSWERS
from racecar.study.coarse_to_fine.outcomes import DRAWS, VERSION
from racecar.study.core.files import read_tensors
from racecar.study.core.folder import Study
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import STD, Run, Variant
from racecar.study.report import Verdict, inference
from racecar.study.report.inference import AgainstControls
from racecar.study.report.results import Results, load_metrics
from racecar.study.report.statistics import Summary, bounds, clipped, paired_difference, summarise

PRIMARY = ("probe", "probe10")
NAMES = {
    "accuracy": "accuracy on A",
    "probe": "probe, all labels",
    "probe_fixed": "probe, fixed l2",
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
    outdated: int = 0  # runs that an older version has measured: their probes are not comparable

    @classmethod
    def load(cls, study: Study, config: TransferConfig) -> TransferResults:
        """Read the finished runs of a configuration."""
        runs = config.runs()
        known = load_metrics(study, runs)
        current = {r: m for r, m in known.items() if r.phase == "B" or "diverged" in m or m.get("measured") == VERSION}
        return cls(config, study.metadata(), runs, current, study, len(known) - len(current))

    # --- which runs ---------------------------------------------------------------------------------------------------

    @property
    def is_smoke_test(self) -> bool:
        """Whether nothing may be concluded: the quick preset, or one seed of a pair that is reported."""
        return (self.config.tasks.is_reported and self.config.seeds < 2) or "quick" in self.setting

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

    @property
    def ordered(self) -> list[Variant]:
        """Variants of the configuration in the order of their methods' places."""
        return sorted(self.variants, key=lambda v: (v.method.place, v.name))

    @cached_property
    def judged(self) -> list[Variant]:
        """Variants with finished runs at their chosen value, in the order of their places."""
        return [v for v in self.ordered if self.tuned(v)]

    @property
    def candidate(self) -> Variant | None:
        """The racecar variant of the pair's hypothesis; where no tuning has named it, the one with the best probe."""
        if self.named_candidate:
            wanted = Variant.parse(self.named_candidate)
            return wanted if wanted in self.judged else None
        return max(self._ours, key=lambda v: self.summary(self.tuned(v), "probe").mean, default=None)

    @property
    def _ours(self) -> list[Variant]:
        return [v for v in self.judged if isinstance(v.method, RR)]

    @property
    def named_candidate(self) -> str:
        """By the plan or by tuning; empty where values were given by hand, so that the candidate is seen afterwards."""
        return str(self.metadata.get("candidate") or self.config.tasks.candidate)

    @property
    def controls(self) -> list[Variant]:
        """All methods of the configuration that are not racecar training."""
        return [v for v in self.ordered if not isinstance(v.method, RR)]

    def lacking(self, variants: Sequence[Variant], outcome: str) -> list[str]:
        """What a verdict waits for: runs at the chosen value that are not finished, or have diverged."""
        found = []
        for variant in variants:
            runs = [r for r in self.tuned(variant) if outcome in self.metrics[r]]
            if len(runs) < self.config.seeds:
                found.append(f"{variant.label} ({len(runs)} of {self.config.seeds} seeds)")
        return found

    # --- numbers ------------------------------------------------------------------------------------------------------

    def numbers(self, runs: Sequence[Run], outcome: str) -> list[float]:
        """One outcome of some runs; those that diverged have none."""
        return [float(self.metrics[r][outcome]) for r in runs if outcome in self.metrics[r]]

    def summary(self, runs: Sequence[Run], outcome: str) -> Summary:
        """Of one outcome over seeds; the interval ends where the outcome does."""
        highest = math.inf if outcome in ("information", "effective_rank") else 1.0
        return clipped(summarise(self.numbers(runs, outcome)), 0.0, highest)

    def answers(self, run: Run, outcome: str) -> NDArray[np.float64] | None:
        """Which test images a run gets right in an outcome, [images] from 0 to 1; None where that was not kept."""
        if self.study is None:
            return None
        if run not in self._read:
            path = self.study.path(run) / f"{ANSWERS}.safetensors"
            self._read[run] = read_tensors(path) if path.exists() else {}
        kept = self._read[run]
        return kept[outcome].double().numpy() / DRAWS if outcome in kept else None

    @cached_property
    def _read(self) -> dict[Run, dict[str, Tensor]]:
        """The answers of a run, from its first comparison on."""
        return {}

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

    @cached_property
    def against_controls(self) -> AgainstControls | None:
        """The candidate's probe against the best control's, by intersection and union; None before all of them are."""
        candidate = self.candidate
        if candidate is None or not self.controls or self.config.seeds < 2:
            return None
        if self.lacking([candidate, *self.controls], "probe"):
            return None
        seeds = list(range(self.config.seeds))
        return inference.best_control(
            self._matrix(candidate, "probe", seeds),
            {c.label: self._matrix(c, "probe", seeds) for c in self.controls},
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

    def at_the_end(self, variant: Variant) -> bool:
        """Whether a chosen value is the first or last of the range, so that the best one may lie outside."""
        strengths = variant.method.strengths
        return bool(strengths) and self.config.tuned.get(variant.name) in (strengths[0], strengths[-1])

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The pair's hypothesis."""
        return [self.hypothesis]

    @cached_property
    def hypothesis(self) -> Verdict:
        """Whether the candidate's probe with all labels gains enough over every control, at equal accuracy on A."""
        candidate, pair = self.candidate, self.config.tasks
        name = candidate.label if candidate is not None else "RR"
        controls = "the one control" if len(self.controls) == 1 else f"the best of {len(self.controls)} controls"
        gain = f"gains {pair.least:g} or more over {controls}, at equal accuracy on A"
        claim = f"A linear probe on {name}'s features {gain}"
        where = "docs/plan.md"
        if self.is_smoke_test:
            return Verdict(claim, where, "not run", "a smoke test: no conclusions")
        if not pair.is_reported:
            return Verdict(claim, where, "not run", "a pair that values are chosen on: nothing is judged here")
        if candidate is None:
            return Verdict(claim, where, "not run", "no racecar variant was run at a chosen value")
        found = self.against_controls
        on_a = self.compare(candidate, STD, "accuracy") if STD in self.judged else None
        if found is None or on_a is None:
            waits = self.lacking([candidate, STD, *(c for c in self.controls if c != STD)], "probe")
            return Verdict(claim, where, "not run", f"waits for {', '.join(waits) or 'two seeds or more'}")
        worst = min(found.differences, key=lambda n: found.differences[n].low)
        evidence = (
            f"{name} {self.summary(self.tuned(candidate), 'probe').mean:.4f}; least gain, over {found.control}: "
            f"{found.difference.mean:+.4f}, {bounds(found.difference, 4, '+')}, n = {found.difference.n} seeds × "
            f"{self._items()} test images; "
            + (
                f"lowest interval, over {worst}: {bounds(found.differences[worst], 4, '+')}; "
                if worst != found.control
                else ""
            )
            + f"on A {name} − Std {on_a.difference.mean:+.4f}, {bounds(on_a.difference, 4, '+')}; controls: "
            f"{', '.join(c.label for c in self.controls)}"
        )
        if not self.named_candidate:
            evidence += (
                f"; {name} is the racecar variant with the best probe here: no tuning has chosen it beforehand"
                if len(self._ours) > 1
                else f"; {name}'s value was given by --tuned, and not read from a finished tuning"
            )
        equal, lost = on_a.difference.low > -pair.margin, on_a.difference.high < -pair.margin
        if found.better and found.difference.mean >= pair.least and equal and self.named_candidate:
            return Verdict(claim, where, "reproduced", evidence)
        refuted = lost or found.difference.high < pair.least
        return Verdict(claim, where, "not reproduced" if refuted else "undecided", evidence)

    def _items(self) -> int:
        run = next(iter(self.tuned(self.judged[0])), None)
        answers = self.answers(run, "probe") if run is not None else None
        return 0 if answers is None else len(answers)

    def not_run(self) -> list[str]:
        """What this study does not show."""
        said = self.unfinished()
        if self.outdated:
            said.append(
                f"{self.outdated} runs measured by an older version are left out: the same command measures again."
            )
        for run, why in self.diverged.items():
            said.append(f"Diverged, and left out: {run.model}, seed {run.seed}: {why.removesuffix('.')}.")
        late = [r for r in self.metrics if "finetuning_diverged" in self.metrics[r]]
        said += [f"Fine-tuning diverged, and is left out: {r.model}, seed {r.seed}." for r in late]
        ends = [v.label for v in self.variants if self.at_the_end(v)]
        if ends:
            said.append(
                f"The chosen value of {', '.join(ends)} is at the end of the range: a farther one may be better."
            )
        if unchosen := [v.label for v in self.variants if v.method.strengths and self.config.tuned_phase(v) is None]:
            said.append(f"No tuning value chosen for {', '.join(unchosen)}: only the frontier is shown.")
        return said
