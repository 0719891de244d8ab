"""Numbers of the stylization study: what every comparison measures, Std beside RR paired by seed, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from racecar.study.core.folder import Study
from racecar.study.core.variants import Run
from racecar.study.report import Verdict
from racecar.study.report.claims import CONTROL
from racecar.study.report.results import ONE_SEED, Results, load_metrics, number_of
from racecar.study.report.statistics import (
    Summary,
    bounds,
    factor,
    factor_bounds,
    outcome,
    paired_difference,
    paired_log_ratio,
    spread,
    spread_at_scale,
    summarise,
)
from racecar.study.stylize import paper
from racecar.study.stylize.experiment import StylizeConfig


@dataclass(frozen=True)
class Number:
    """Something measured in every run of a comparison.

    Attributes:
        comparison, key: where it stands.
        title: what it is.
        better: the sign of what speaks for a network.
        ratio: compared by logarithms: it spans orders of magnitude.
    """

    comparison: str
    key: str
    title: str
    better: int
    ratio: bool = False


NUMBERS = (
    Number("shapes", "iou", "IoU of the object before and after", 1),
    Number("shapes", "streaks", "energy outside the outline", -1, True),
    Number("shapes", "left", "share of L_style left at the end", 0, True),
    Number("building", "judge_style", "distance from the style, by the judge", -1, True),
    Number("building", "judge_content", "distance from the content, by the judge", -1, True),
    Number("horse", "grass", "share of the horse's body turned green", -1),
    Number("horse", "judge_style", "distance from the style, by the judge", -1, True),
    Number("horse", "judge_content", "distance from the content, by the judge", -1, True),
    Number("detail", "psnr", "PSNR against the reference, dB", 1),
    Number("detail", "low_psnr", "the same of the low resolution", 0),
    Number("detail", "dssim", "1 − SSIM against the reference", -1),
    Number("detail", "low_dssim", "the same of the low resolution", 0),
    Number("detail", "judge", "distance from the reference, by the judge", -1, True),
    Number("detail", "low_judge", "the same of the low resolution", 0, True),
)


@dataclass(frozen=True)
class StylizeResults(Results[StylizeConfig]):
    """Everything the tables and contact sheets of one stylization study show: a run's way is its comparison."""

    source: ClassVar[str] = "{}: {}."
    unknown_source: ClassVar[str] = "Origin not recorded."

    @classmethod
    def load(cls, study: Study, config: StylizeConfig) -> StylizeResults:
        """Read the finished runs of a configuration."""
        runs = config.runs()
        return cls(config, study.metadata(), runs, load_metrics(study, runs))

    @property
    def paper_headline(self) -> str:
        """The label of the paper's racecar variant in this study."""
        return "RR^16"

    def runs_of(self, comparison: str) -> list[Run]:
        """Finished runs of a comparison, variant by variant."""
        order = {v: i for i, v in enumerate(self.variants)}
        return sorted((r for r in self.metrics if r.way == comparison), key=lambda r: (order[r.variant], r.seed))

    def measured(self, variant: str, number: Number) -> dict[int, float]:
        """One number of a variant by seed, mean over the pictures of a run; runs without it are left out."""
        values = {s: _value(m, number) for s, m in self.of(f"{variant}_A-{number.comparison}").items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def difference(self, number: Number) -> Summary:
        """The racecar variant minus Std, paired by seed; of logarithms if the number is a ``ratio``.

        Turned so that positive speaks for the racecar variant.
        """
        ours, theirs = self.measured(self.headline, number), self.measured("Std", number)
        seeds = sorted(ours.keys() & theirs.keys())
        sides = [[side[s] for s in seeds] for side in (ours, theirs)]
        if number.better < 0:
            sides.reverse()
        return (paired_log_ratio if number.ratio else paired_difference)(*sides)

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then what an independent network says."""
        rr = self.headline
        verdicts = [
            self._verdict(f"{rr} keeps a shape that Std changes (style loss alone)", paper.SHAPES, "shapes", "iou"),
            self._verdict("Std introduces streaks around the outline", paper.SHAPES, "shapes", "streaks"),
            self._by_eye("Std mixes style and content: a star within the building", paper.BUILDING, "building"),
            self._verdict("Std leaves grass-like areas within the horse", paper.HORSE, "horse", "grass"),
            self._verdict(f"{rr} is closer to the high resolution: PSNR", paper.DETAIL, "detail", "psnr"),
            self._verdict(f"{rr} is closer to the high resolution: SSIM", paper.DETAIL, "detail", "dssim"),
            Verdict(
                f"{rr} also stylizes the horse's shadow",
                paper.SHADOW,
                "not run",
                "the horse at hand casts no shadow that is seen",
            ),
        ]
        if any("judge" in m or "judge_style" in m for m in self.metrics.values()):
            judged = {
                ("detail", "judge"): f"{rr} is closer to the high resolution",
                ("building", "judge_style"): f"{rr}'s buildings are closer to the style",
                ("building", "judge_content"): f"{rr}'s buildings are closer to the content",
                ("horse", "judge_style"): f"{rr}'s horse is closer to the style",
                ("horse", "judge_content"): f"{rr}'s horse is closer to the content",
            }
            verdicts += [
                self._verdict(f"{claim} in an independent network", CONTROL, *where) for where, claim in judged.items()
            ]
        return verdicts

    def _verdict(self, claim: str, where: str, comparison: str, key: str) -> Verdict:
        number = next(n for n in NUMBERS if (n.comparison, n.key) == (comparison, key))
        rr, gain = self.headline, self.difference(number)
        if gain.n < 2:
            why = ONE_SEED if gain.n else f"no seed has {number.title} of both networks"
            return Verdict(claim, where, "not run", why)
        ours, theirs = (_spread(summarise([*self.measured(v, number).values()]), number) for v in (rr, "Std"))
        if number.ratio:
            effect = f"Std over {rr} {factor(gain.mean)}, {factor_bounds(gain)}"
        else:
            first, second = (rr, "Std") if number.better > 0 else ("Std", rr)
            effect = f"{first} − {second} = {gain.mean:+.3g}, {bounds(gain, 3, '+')}"
        evidence = f"{number.title}: {rr} {ours}, Std {theirs}; {effect}, paired by seed, n = {gain.n}"
        return Verdict(claim, where, outcome(gain), evidence)

    def _by_eye(self, claim: str, where: str, comparison: str) -> Verdict:
        if not any(r.way == comparison for r in self.metrics):
            return Verdict(claim, where, "not run", f"no run of {comparison}")
        return Verdict(claim, where, "undecided", "to be judged by eye on the contact sheet: there is no number for it")

    # --- table rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[list[str]]:
        """Comparison, number, a cell per variant, difference of RR and Std with its interval."""
        rows = []
        for number in NUMBERS:
            each = [[*self.measured(v.label, number).values()] for v in self.variants]
            if any(each):
                cells = [_spread(summarise(v), number) if v else "not run" for v in each]
                rows.append([number.comparison, number.title, *cells, self._effect(number)])
        return rows

    def _effect(self, number: Number) -> str:
        gain = self.difference(number)
        if gain.n < 2 or number.key.startswith("low"):
            return "—"
        sign = number.better or 1
        values = [sign * gain.mean, *sorted((sign * gain.low, sign * gain.high))]
        mean, low, high = (factor(v) if number.ratio else f"{v:+.3g}" for v in values)
        return f"{mean} [{low}, {high}], n = {gain.n}"

    def not_run(self) -> list[str]:
        """What is missing, in sentences."""
        lines = []
        for comparison in self.config.phases:
            for variant in self.variants:
                n = sum(r.way == comparison and r.variant == variant for r in self.metrics)
                if n < self.config.seeds:
                    lines.append(f"{comparison} as {variant.label} sees it: {n} of {self.config.seeds} seeds finished.")
        if not self.metadata.get("judge"):
            lines.append("No independent network was given (--judge): errors against the reference are in pixels only.")
        lines.append("LPIPS with its learnt weights: they have to be downloaded.")
        return lines


def _value(metrics: Mapping[str, Any], number: Number) -> float | None:
    if number.key == "left":
        return fmean(p["style"][1] / max(p["style"][0], 1e-12) for p in metrics["pictures"])
    return number_of(metrics, number.key)


def _spread(summary: Summary, number: Number) -> str:
    return spread_at_scale(summary) if number.ratio else spread(summary)
