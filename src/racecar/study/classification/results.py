"""Numbers of a classification study: claims of Section 5.1 or 5.2, controls, regeneration, cost, what is missing."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from racecar.study.classification.experiment import ClassificationConfig, Experiment
from racecar.study.core.folder import Study
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import START, Run, Variant
from racecar.study.report import Outcome, Verdict
from racecar.study.report.claims import CONTROL, Claim
from racecar.study.report.results import AccuracyResults, load_metrics
from racecar.study.report.statistics import Summary, outcome, paired_difference, summarise

MOST = 0.5  # of the input's variance: a regeneration error below it "recovers most of the input"


@dataclass(frozen=True)
class Curve:
    """One run's test accuracy.

    Attributes:
        epochs, seconds: since the phase began, where accuracy was measured.
        accuracy: on the test images.
    """

    epochs: list[int]
    seconds: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class ClassificationResults(AccuracyResults):
    """Everything the tables and figures of one study show.

    Attributes:
        config: of the study.
        constants: the experiment's module ``paper``.
        about: the content of study.json.
        measure: what is shown as accuracy, ``"accuracy"`` (top-1) or ``"top5"``.
    """

    digits: ClassVar[int] = 4

    config: ClassificationConfig
    constants: ModuleType
    about: Mapping[str, Any]
    measure: str = "accuracy"

    @classmethod
    def load(cls, study: Study, experiment: Experiment, config: ClassificationConfig) -> ClassificationResults:
        """Read the finished runs of a configuration."""
        paper = importlib.import_module(f"racecar.study.{experiment.name}.paper")
        runs, about = config.runs(), study.about()
        measure = experiment.measure(config, about)
        metrics = load_metrics(study, runs)
        if measure != "accuracy":
            metrics = {r: _measured(m, measure) for r, m in metrics.items()}
        theirs = paper.ACCURACY if experiment.comparable(config, about) else {}
        return cls(runs, metrics, theirs, config, paper, about, measure)

    @property
    def variants(self) -> list[Variant]:
        """Of the configuration, each once."""
        return list(dict.fromkeys(Variant.parse(v) for v in self.config.variants))

    @property
    def models(self) -> list[str]:
        """Those of the configuration, and the paper's that it lacks."""
        return list(dict.fromkeys([*super().models, *self.paper]))

    @property
    def headline(self) -> str:
        """The deepest racecar variant, the exact one, by label; the paper's where the configuration has none."""
        racecars = [v.method for v in self.variants if isinstance(v.method, RR)]
        found = sorted(racecars, key=lambda m: (not m.savings, m.depth, not m.shared))
        theirs = (m for m in self.constants.ACCURACY if m.startswith("RR"))
        return found[-1].label if found else next(theirs).partition("_")[0]

    @property
    def sources(self) -> str:
        """Where the data comes from, for every table."""
        given = self.about.get("sources", {})
        return " ".join(f"Task {name}: {words}." for name, words in given.items()) or "Origin of the data not recorded."

    @property
    def measured(self) -> str:
        """What the accuracy is, in words."""
        return "Test accuracy" if self.measure == "accuracy" else "Top-5 accuracy on the test images"

    def top1(self) -> str:
        """Top-1 accuracy of every model that has runs, in words."""
        found = {m: [float(r["top1"]) for r in self.of(m).values() if "top1" in r] for m in self.models}
        return "top-1: " + ", ".join(f"{m} {fmean(v):.4f}" for m, v in found.items() if v)

    @property
    def diverged(self) -> dict[Run, str]:
        """Messages of the runs that ended early because their loss was no finite number."""
        return {r: str(m["diverged"]) for r, m in sorted(self.metrics.items(), key=lambda i: i[0]) if m.get("diverged")}

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then controls that it does not have."""
        rr = self.headline
        claims = self.constants.claims(rr)
        of_the_paper = [c for c in claims if c.where != CONTROL]
        own = [c for c in claims if c.where == CONTROL] + self._controls(rr)
        return [
            *(self._verdict(c) for c in of_the_paper),
            *self._recovers(rr),
            *(self._verdict(c) for c in own),
        ]

    def _verdict(self, claim: Claim) -> Verdict:
        return self.gap(claim.words, claim.where, claim.better, claim.worse)

    def _controls(self, rr: str) -> list[Claim]:
        depth = rr.partition("^")[2]
        to = "AA" if all(p[:2] != "AB" for p in self.config.phases) else "AB"
        words = f"{rr} outperforms Std that has trained as long in phase I (compute-matched)"
        found = [
            (words, f"{rr}_{to}", f"StdC_{to}"),
            (
                f"{rr} outperforms an untied decoder of the same shape: sharing weights matters",
                f"{rr}_{to}",
                f"{self._decoder}_{to}",
            ),
        ]
        if depth != "1":
            found.append((f"{rr} outperforms RR^1: comparing inner layers matters", f"{rr}_{to}", f"RR^1_{to}"))
        names = {
            "probe": "with a new last layer alone",
            "1pct": "with 1 % of the labels",
            "10pct": "with 10 % of the labels",
        }
        for phase in self.config.phases:
            path, _, way = phase.partition("-")
            if path != "AB" or not way:
                continue
            found.append((f"{rr} outperforms Std on B {names[way]}", f"{rr}_{phase}", f"Std_{phase}"))
            if way != "probe":
                words = f"{rr} outperforms training on B from scratch {names[way]}"
                found.append((words, f"{rr}_{phase}", f"Std_B-{way}"))
        return [Claim(words, CONTROL, better, worse) for words, better, worse in found]

    @property
    def _decoder(self) -> str:
        found = [v for v in self.variants if v.family == "Dec"]
        return f"{max(found, key=lambda v: v.depth).label if found else 'Dec^' + self.headline.partition('^')[2]}"

    def _recovers(self, rr: str) -> list[Verdict]:
        """Figure 5: only RR_A recovers most of the input."""
        where = self.constants.REGENERATION
        others = [m for m in ("Std_A", "Ort_A") if m in self.models]
        return [self._recovers_most(rr, where), *(self._recovers_more(rr, other, where) for other in others)]

    def _recovers_most(self, rr: str, where: str) -> Verdict:
        model = f"{rr}_A"
        claim = f"{model} recovers most of the input: its error is below {MOST:g} of the input's variance"
        errors, correlation = self.regeneration(model, "error"), self.regeneration(model, "correlation")
        if not errors:
            return Verdict(claim, where, "not run", self.missing(model))
        found, r = summarise(errors), summarise(correlation)
        below = sum(e < 1 for e in errors)
        evidence = (
            f"error {compact(found.mean)}, {_compact_bounds(found)}, n = {found.n}; {below} of {found.n} runs below 1, "
            f"where the mean image value would be; correlation {r.mean:.2f}"
        )
        return Verdict(claim, where, _below(found, MOST), evidence)

    def _recovers_more(self, rr: str, other: str, where: str) -> Verdict:
        """By the logarithm of errors: they span orders of magnitude."""
        claim = f"{rr}_A recovers more of the input than {other}"
        ours, theirs = self.of(f"{rr}_A"), self.of(other)
        seeds = [s for s in ours if s in theirs and "regeneration" in ours[s] and "regeneration" in theirs[s]]
        if not seeds:
            return Verdict(claim, where, "not run", self.missing(f"{rr}_A", other))
        errors = [[m[s]["regeneration"]["error"] for s in seeds] for m in (theirs, ours)]
        found = paired_difference(*(np.log(np.maximum(e, 1e-12)).tolist() for e in errors))
        similar = [np.mean([m[s]["regeneration"]["correlation"] for s in seeds]) for m in (theirs, ours)]
        limits = "one run has no CI" if found.n < 2 else f"95 % CI [{_times(found.low)}, {_times(found.high)}]"
        evidence = (
            f"error of {other} over that of {rr}_A = {_times(found.mean)} (geometric mean, paired by seed), {limits}, "
            f"n = {found.n}; correlation {similar[1]:.2f} against {similar[0]:.2f}"
        )
        return Verdict(claim, where, outcome(found), evidence)

    # --- other numbers ------------------------------------------------------------------------------------------------

    def regeneration(self, model: str, name: str) -> list[float]:
        """``"error"`` or ``"correlation"`` of a model of phase I, by seed."""
        return [float(m["regeneration"][name]) for m in self.of(model).values() if "regeneration" in m]

    def seconds(self, variant: Variant) -> list[float]:
        """Seconds per epoch of phase I, by seed."""
        found = [m.get("seconds_per_epoch") for m in self.of(f"{variant.label}_A").values()]
        return [float(s) for s in found if s]

    def median_run(self, variant: Variant) -> Run | None:
        """Of phase I by accuracy: one run, and no lucky one."""
        runs = sorted((m["accuracy"], r) for r, m in self.metrics.items() if r.model == f"{variant.label}_A")
        return runs[(len(runs) - 1) // 2][1] if runs else None

    def curves(self, model: str) -> list[Curve]:
        """Test accuracy in training, by seed; runs without a single evaluation are left out."""
        found = []
        for metrics in self.of(model).values():
            seconds = np.cumsum([p["seconds"] for p in metrics["history"]])
            points = [(p["epoch"], s, p["accuracy"]) for p, s in zip(metrics["history"], seconds, strict=True)]
            if measured := [point for point in points if point[2] is not None]:
                found.append(Curve(*(list(part) for part in zip(*measured, strict=True))))
        return found

    def cost_rows(self, flops: Mapping[str, float]) -> list[list[str]]:
        """Variant; seconds per epoch, median and range; ratio to Std; FLOP ratio; the paper's seconds and ratio.

        Args:
            flops: per variant's name, work of a training step over Std's.
        """
        theirs: Mapping[str, float] = self.constants.SECONDS
        std = self.seconds(Variant("Std"))
        rows = []
        for variant in self.variants:
            ours, paper = self.seconds(variant), theirs.get(variant.label)
            spread = f"{median(ours):.3f} ({min(ours):.3f} – {max(ours):.3f})" if ours else "not run"
            rows.append(
                [
                    variant.label,
                    f"{spread}, n = {len(ours)}" if ours else spread,
                    f"{median(ours) / median(std):.2f}×" if ours and std else "—",
                    f"{flops[variant.name]:.2f}×" if variant.name in flops else "—",
                    f"{paper:g}" if paper else "—",
                    f"{paper / theirs['Std']:.2f}×" if paper else "—",
                ]
            )
        return rows

    def not_run(self) -> list[str]:
        """What is missing, in sentences: models, seeds, the paper's sizes, the claims that wait for them."""
        planned, wanted = super().models, self.config.seeds
        absent = [m for m in self.models if m not in planned]
        lines = [f"{', '.join(absent)} of {self.constants.TABLES}: not in this configuration."] if absent else []
        for found in range(wanted):
            if unfinished := [m for m in planned if len(self.of(m)) == found]:
                lines.append(f"{', '.join(unfinished)}: {found} of {wanted} seeds finished.")
        theirs = max(map(len, self.constants.ACCURACY.values()))
        if self.config.seeds < theirs:
            lines.append(f"The paper has {theirs} runs of each model, this configuration {self.config.seeds}.")
        preset = re.search(r"(\w+) preset", str(self.about.get("setting", "")))
        if preset is None or preset[1] != "paper" or not self.paper:
            recipes = {r.phase: self.config.recipe(r) for r in self.runs if not r.way or r.phase == START}
            epochs = ", ".join(f"{phase} {recipe.epochs}" for phase, recipe in recipes.items())
            images = self.config.train_images
            lines.append(
                "The paper preset as it is (all images, the paper's epochs) was not run: these numbers are from "
                f"{'all' if images is None else images} training images per task and epochs {epochs}."
            )
        if "original file was not at hand" in self.sources:
            lines.append("The published n-MNIST file was not used: task B was made from MNIST.")
        lines += [f"Not judged: {v.claim} ({v.evidence})." for v in self.verdicts() if v.outcome == "not run"]
        return lines


def _measured(metrics: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """Metrics with another measure in accuracy's place."""
    history = [point | {"accuracy": point[measure]} for point in metrics["history"]]
    return {**metrics, "top1": metrics["accuracy"], "accuracy": metrics[measure], "history": history}


def compact(value: float) -> str:
    """Three digits at any size; what overflowed says so."""
    return "overflow" if not math.isfinite(value) or abs(value) >= 1e29 else f"{value:.3g}"


def compact_spread(values: Sequence[float]) -> str:
    """``mean ± sd`` with three digits."""
    found = summarise(values)
    if not found.n:
        return "not run"
    return compact(found.mean) + (f" ± {compact(found.sd)}" if found.n > 1 else "")


def _compact_bounds(found: Summary) -> str:
    return f"95 % CI [{compact(found.low)}, {compact(found.high)}]" if found.n > 1 else "one run has no CI"


def _times(log: float) -> str:
    return f"×{math.exp(log):.3g}" if log < 300 else "overflow"


def _below(found: Summary, limit: float) -> Outcome:
    return "reproduced" if found.high < limit else "not reproduced" if found.low > limit else "undecided"
