"""Numbers of a classification study: claims of Section 5.1 or 5.2, controls, regeneration, cost, what is missing."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from racecar.study.classification.experiment import ClassificationConfig, Experiment
from racecar.study.core.folder import Study
from racecar.study.core.variants import START, Variant
from racecar.study.report import Verdict
from racecar.study.report.claims import CONTROL, Claim
from racecar.study.report.results import AccuracyResults, load_metrics
from racecar.study.report.statistics import (
    compact,
    compact_bounds,
    factor,
    factor_bounds,
    outcome,
    paired_log_ratio,
    summarise,
)

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
class ClassificationResults(AccuracyResults[ClassificationConfig]):
    """Everything the tables and figures of one classification study show.

    Attributes:
        constants: the experiment's module ``paper``.
        measure: what is shown as accuracy, ``"accuracy"`` (top-1) or ``"top5"``.
    """

    digits: ClassVar[int] = 4

    constants: ModuleType
    measure: str = "accuracy"

    @classmethod
    def load(cls, study: Study, experiment: Experiment, config: ClassificationConfig) -> ClassificationResults:
        """Read the finished runs of a configuration."""
        constants = importlib.import_module(f"{type(experiment).__module__.rpartition('.')[0]}.paper")
        runs, metadata = config.runs(), study.metadata()
        measure = experiment.measure(config, metadata)
        metrics = load_metrics(study, runs)
        if measure != "accuracy":
            metrics = {r: _measured(m, measure) for r, m in metrics.items()}
        theirs = constants.ACCURACY if experiment.comparable(config, metadata) else {}
        return cls(config, metadata, runs, metrics, theirs, constants, measure, delta=experiment.delta)

    @property
    def models(self) -> list[str]:
        """Models of the configuration, and the paper's that it lacks."""
        return list(dict.fromkeys([*super().models, *self.paper]))

    @property
    def paper_headline(self) -> str:
        """The label of the paper's deepest racecar variant in this study."""
        return next(m for m in self.constants.ACCURACY if m.startswith("RR")).partition("_")[0]

    @property
    def measured(self) -> str:
        """Which accuracy the tables show."""
        return "Test accuracy" if self.measure == "accuracy" else "Top-5 accuracy on the test images"

    def top1(self) -> str:
        """Mean top-1 accuracy of every model that has runs."""
        each = {m: self.values(m, "top1") for m in self.models}
        return "top-1: " + ", ".join(f"{m} {fmean(v):.4f}" for m, v in each.items() if v)

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
        return self.gap(claim.statement, claim.where, claim.better, claim.worse)

    def _controls(self, rr: str) -> list[Claim]:
        depth = rr.partition("^")[2]
        to = "AA" if all(p[:2] != "AB" for p in self.config.phases) else "AB"
        controls = [
            (
                f"{rr} outperforms Std that has trained as long in phase I (compute-matched)",
                f"{rr}_{to}",
                f"StdC_{to}",
            ),
            (
                f"{rr} outperforms an untied decoder of the same shape: sharing weights matters",
                f"{rr}_{to}",
                f"{self.decoder}_{to}",
            ),
        ]
        if depth != "1":
            controls.append((f"{rr} outperforms RR^1: comparing inner layers matters", f"{rr}_{to}", f"RR^1_{to}"))
        names = {
            "probe": "with a new last layer alone",
            "1pct": "with 1 % of the labels",
            "10pct": "with 10 % of the labels",
        }
        for phase in self.config.phases:
            path, _, way = phase.partition("-")
            if path != "AB" or not way:
                continue
            controls.append((f"{rr} outperforms Std on B {names[way]}", f"{rr}_{phase}", f"Std_{phase}"))
            if way != "probe":
                statement = f"{rr} outperforms training on B from scratch {names[way]}"
                controls.append((statement, f"{rr}_{phase}", f"Std_B-{way}"))
        return [Claim(statement, CONTROL, better, worse) for statement, better, worse in controls]

    def _recovers(self, rr: str) -> list[Verdict]:
        """Figure 5: only RR_A recovers most of the input."""
        where = self.constants.REGENERATION
        others = [m for m in ("Std_A", "Ort_A") if m in self.models]
        return [self._recovers_most(f"{rr}_A", where), *(self._recovers_more(f"{rr}_A", m, where) for m in others)]

    def _recovers_most(self, model: str, where: str) -> Verdict:
        claim = f"{model} recovers most of the input: its error is below {MOST:g} of the input's variance"
        errors, correlation = self.regeneration(model, "error"), self.regeneration(model, "correlation")
        if len(errors) < 2:
            return Verdict(claim, where, "not run", self.missing(model))
        error = summarise(errors)
        below = sum(e < 1 for e in errors)
        evidence = (
            f"error {compact(error.mean)}, {compact_bounds(error)}, n = {error.n}; {below} of {error.n} runs below 1, "
            f"where the mean image value would be; correlation {summarise(correlation).mean:.2f}"
        )
        return Verdict(claim, where, outcome(summarise([MOST - e for e in errors])), evidence)

    def _recovers_more(self, model: str, other: str, where: str) -> Verdict:
        """By the logarithm of errors: they span orders of magnitude."""
        claim = f"{model} recovers more of the input than {other}"
        ours, theirs = self.paired(model, other, "regeneration.error")
        if len(ours) < 2:
            return Verdict(claim, where, "not run", self.missing(model, other))
        gain = paired_log_ratio(theirs, ours)
        similar = [summarise(c).mean for c in self.paired(model, other, "regeneration.correlation")]
        evidence = (
            f"error of {other} over that of {model} = {factor(gain.mean)} (geometric mean, paired by seed), "
            f"{factor_bounds(gain)}, n = {gain.n}; correlation {similar[0]:.2f} against {similar[1]:.2f}"
        )
        return Verdict(claim, where, outcome(gain), evidence)

    # --- other numbers ------------------------------------------------------------------------------------------------

    def regeneration(self, model: str, name: str) -> list[float]:
        """``"error"`` or ``"correlation"`` of the inputs that a model of phase I regenerates, by seed."""
        return self.values(model, f"regeneration.{name}")

    def seconds(self, variant: Variant) -> list[float]:
        """Seconds per epoch of phase I, by seed."""
        return [s for s in self.values(f"{variant.label}_A", "seconds_per_epoch") if s]

    def curves(self, model: str) -> list[Curve]:
        """A model's test accuracy in training, by seed; runs with fewer than two evaluations make none."""
        curves = []
        for metrics in self.of(model).values():
            seconds = np.cumsum([p["seconds"] for p in metrics["history"]])
            points = [(p["epoch"], s, p["accuracy"]) for p, s in zip(metrics["history"], seconds, strict=True)]
            measured = [point for point in points if point[2] is not None]
            if len(measured) > 1:
                curves.append(Curve(*(list(part) for part in zip(*measured, strict=True))))
        return curves

    def cost_rows(self, flops: Mapping[str, float]) -> list[list[str | None]]:
        """Variant; seconds per epoch, median and range, or None; ratio to Std; FLOP ratio; the paper's two.

        Args:
            flops: per variant's name, work of a training step over Std's.
        """
        theirs: Mapping[str, float] = self.constants.SECONDS
        std = self.seconds(Variant("Std"))
        rows = []
        for variant in self.variants:
            ours, paper = self.seconds(variant), theirs.get(variant.label)
            rows.append(
                [
                    variant.label,
                    f"{median(ours):.3f} ({min(ours):.3f} – {max(ours):.3f}), n = {len(ours)}" if ours else None,
                    f"{median(ours) / median(std):.2f}×" if min(len(ours), len(std)) > 1 else "—",
                    f"{flops[variant.name]:.2f}×" if variant.name in flops else "—",
                    f"{paper:g}" if paper else "—",
                    f"{paper / theirs['Std']:.2f}×" if paper else "—",
                ]
            )
        return rows

    def not_run(self) -> list[str]:
        """What is missing, in sentences: models, seeds, the paper's sizes, the claims that wait for them."""
        planned = super().models
        absent = [m for m in self.models if m not in planned]
        lines = [f"{', '.join(absent)} of {self.constants.TABLES}: not in this configuration."] if absent else []
        lines += self.unfinished()
        theirs = max(map(len, self.constants.ACCURACY.values()))
        if self.config.seeds < theirs:
            lines.append(f"The paper has {theirs} runs of each model, this configuration {self.config.seeds}.")
        preset = re.search(r"(\w+) preset", self.setting)
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
        return lines


def _measured(metrics: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """A run's metrics with another measure in accuracy's place."""
    history = [point | {"accuracy": point[measure]} for point in metrics["history"]]
    return {**metrics, "top1": metrics["accuracy"], "accuracy": metrics[measure], "history": history}
