"""Numbers of the stylization study: what every comparison measures, Std beside RR paired by seed, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.report import Outcome, Verdict
from racecar.study.report.claims import CONTROL
from racecar.study.report.results import load_metrics
from racecar.study.report.statistics import Summary, bounds, outcome, paired_difference, spread, summarise
from racecar.study.stylize import paper
from racecar.study.stylize.experiment import StylizeConfig


@dataclass(frozen=True)
class Number:
    """Something measured in every run of a comparison.

    Attributes:
        comparison, key: where it stands.
        words: what it is.
        better: the sign of what speaks for a network.
        ratio: compared by logarithms: it spans orders of magnitude.
    """

    comparison: str
    key: str
    words: str
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
class StylizeResults:
    """Numbers of one study.

    Attributes:
        config: of the study.
        metrics: per finished run, the content of its run.json.
        about: the content of study.json.
    """

    config: StylizeConfig
    metrics: Mapping[Run, Mapping[str, Any]]
    about: Mapping[str, Any]

    @classmethod
    def load(cls, study: Study, config: StylizeConfig) -> StylizeResults:
        """Read the finished runs of a configuration."""
        return cls(config, load_metrics(study, config.runs()), study.about())

    @property
    def variants(self) -> list[Variant]:
        """Of the configuration, each once."""
        return list(dict.fromkeys(Variant.parse(v) for v in self.config.variants))

    @property
    def headline(self) -> Variant:
        """The deepest racecar variant; the paper's where there is none."""
        found = [v for v in self.variants if v.family == "RR"]
        return max(found, key=lambda v: v.depth) if found else Variant("RR16")

    @property
    def sources(self) -> str:
        """Which networks and pictures, for every table."""
        return " ".join(f"{k}: {v}." for k, v in self.about.get("sources", {}).items()) or "Origin not recorded."

    def values(self, variant: Variant, number: Number) -> dict[int, float]:
        """One number by seed, mean over the pictures of a run; runs without it are left out."""
        found = {}
        for run, metrics in sorted(self.metrics.items(), key=lambda i: i[0]):
            if run.variant == variant and run.way == number.comparison:
                value = _value(metrics, number)
                if value is not None:
                    found[run.seed] = value
        return found

    def difference(self, number: Number) -> Summary:
        """Paired by seed: RR minus Std, turned so that positive speaks for RR; of logarithms if ``ratio``."""
        ours, theirs = self.values(self.headline, number), self.values(Variant("Std"), number)
        seeds = sorted(ours.keys() & theirs.keys())
        scale: Callable[[float], float] = (lambda v: math.log(max(v, 1e-12))) if number.ratio else float
        sign = number.better or 1
        return paired_difference(*([sign * scale(side[s]) for s in seeds] for side in (ours, theirs)))

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then what an independent network says."""
        rr = self.headline.label
        found = [
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
            for comparison, key, words in (
                ("detail", "judge", f"{rr} is closer to the high resolution in an independent network"),
                ("building", "judge_style", f"{rr}'s buildings are closer to the style in an independent network"),
                ("building", "judge_content", f"{rr}'s buildings are closer to the content in an independent network"),
                ("horse", "judge_style", f"{rr}'s horse is closer to the style in an independent network"),
                ("horse", "judge_content", f"{rr}'s horse is closer to the content in an independent network"),
            ):
                found.append(self._verdict(words, CONTROL, comparison, key))
        return found

    def _verdict(self, claim: str, where: str, comparison: str, key: str) -> Verdict:
        number = next(n for n in NUMBERS if (n.comparison, n.key) == (comparison, key))
        found = self.difference(number)
        if not found.n:
            return Verdict(claim, where, "not run", f"no seed has {number.words} of both networks")
        rr, std = (summarise([*self.values(v, number).values()]) for v in (self.headline, Variant("Std")))
        both = f"{number.words}: {self.headline.label} {_spread(rr, number)}, Std {_spread(std, number)}"
        said: Outcome = outcome(found)
        if number.ratio:
            low, high = (f"×{math.exp(v):.3g}" for v in (found.low, found.high)) if found.n > 1 else ("", "")
            limits = f", 95 % CI [{low}, {high}]" if found.n > 1 else ", one run has no CI"
            effect = f"Std over {self.headline.label} ×{math.exp(found.mean):.3g}{limits}"
        else:
            first, second = (self.headline.label, "Std") if number.better > 0 else ("Std", self.headline.label)
            effect = f"{first} − {second} = {found.mean:+.3g}, {bounds(found, 3, '+')}"
        return Verdict(claim, where, said, f"{both}; {effect}, paired by seed, n = {found.n}")

    def _by_eye(self, claim: str, where: str, comparison: str) -> Verdict:
        if not any(r.way == comparison for r in self.metrics):
            return Verdict(claim, where, "not run", f"no run of {comparison}")
        return Verdict(claim, where, "undecided", "to be judged by eye on the contact sheet: there is no number for it")

    # --- table rows ---------------------------------------------------------------------------------------------------

    def rows(self) -> list[list[str]]:
        """Comparison, number, a cell per variant, difference of RR and Std with its interval."""
        found = []
        for number in NUMBERS:
            each = [[*self.values(v, number).values()] for v in self.variants]
            if not any(each):
                continue
            cells = [_spread(summarise(v), number) if v else "not run" for v in each]
            found.append([number.comparison, number.words, *cells, self._effect(number)])
        return found

    def _effect(self, number: Number) -> str:
        found = self.difference(number)
        if not found.n or number.key.startswith("low"):
            return "—"
        sign = number.better or 1
        low, high = sorted((sign * found.low, sign * found.high)) if found.n > 1 else (math.nan, math.nan)
        mean = sign * found.mean
        if number.ratio:
            limits = f" [×{math.exp(low):.3g}, ×{math.exp(high):.3g}]" if found.n > 1 else ""
            return f"×{math.exp(mean):.3g}{limits}, n = {found.n}"
        limits = f" [{low:+.3g}, {high:+.3g}]" if found.n > 1 else ""
        return f"{mean:+.3g}{limits}, n = {found.n}"

    def not_run(self) -> list[str]:
        """What is missing, in sentences."""
        lines = []
        for comparison in self.config.phases:
            for variant in self.variants:
                n = sum(r.way == comparison and r.variant == variant for r in self.metrics)
                if n < self.config.seeds:
                    lines.append(f"{comparison} as {variant.label} sees it: {n} of {self.config.seeds} seeds finished.")
        if not self.about.get("judge"):
            lines.append("No independent network was given (--judge): errors against the reference are in pixels only.")
        lines.append("LPIPS with its learnt weights: they have to be downloaded.")
        lines += [f"Not judged: {v.claim} ({v.evidence})." for v in self.verdicts() if v.outcome == "not run"]
        return lines


def _value(metrics: Mapping[str, Any], number: Number) -> float | None:
    if number.key == "left":
        shares = [p["style"][1] / max(p["style"][0], 1e-12) for p in metrics["pictures"]]
        return fmean(shares)
    return float(metrics[number.key]) if number.key in metrics else None


def _spread(found: Summary, number: Number) -> str:
    if number.ratio:
        return f"{found.mean:.3g}" + (f" ± {found.sd:.2g}" if found.n > 1 else "")
    return spread(found)


def pictures_of(results: StylizeResults, comparison: str) -> Sequence[Run]:
    """Finished runs of a comparison, variant by variant."""
    order = {v: i for i, v in enumerate(results.variants)}
    return sorted((r for r in results.metrics if r.way == comparison), key=lambda r: (order[r.variant], r.seed))
