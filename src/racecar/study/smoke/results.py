"""Numbers of the smoke study: L2 and collapses beside Table 6, verdicts, the budget at which an order is settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

import numpy as np

from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run
from racecar.study.report import Verdict
from racecar.study.report.claims import CONTROL, Claim
from racecar.study.report.results import Results, load_metrics
from racecar.study.report.statistics import (
    Summary,
    bounds,
    factor,
    factor_bounds,
    outcome,
    paired_log_ratio,
    summarise,
)
from racecar.study.smoke import experiment, paper
from racecar.study.smoke.config import LEAKY, SmokeConfig
from racecar.study.smoke.frames import lowered, raised
from racecar.study.smoke.quality import quality

_TRANSFERS = ("AB1", "AB2")
MOST = 0.5  # of the input's variance: a regeneration error below it "recovers the input"


@dataclass(frozen=True)
class Settled:
    """From which step on one of two models is ahead for good.

    Attributes:
        subject: what is compared.
        ahead: the model that is better at the end, by the mean over seeds of the logarithm of the quantity.
        step: the first measured step since when that has not changed; None where the interval at the end holds 0.
        total: the last step.
        end: paired difference of logarithms at the end, positive for ``ahead``.
    """

    subject: str
    ahead: str
    step: int | None
    total: int
    end: Summary


@dataclass(frozen=True)
class SmokeResults(Results[SmokeConfig]):
    """Everything the tables and figures of one smoke study show.

    Attributes:
        baseline: quality of nearest-neighbour upsampling on task A's test pictures.
        alive: per run of an auto-encoder, the share of its output above 0 before the first step.
        dead: per run of an auto-encoder, how many of its output's channels are 0 everywhere at the end.
    """

    median_of: ClassVar[str] = "l2"

    baseline: Mapping[str, float]
    alive: Mapping[Run, float]
    dead: Mapping[Run, int]

    @classmethod
    def load(cls, study: Study, config: SmokeConfig) -> SmokeResults:
        """Read the finished runs of a configuration.

        Raises:
            StudyError: a file of the study is missing or damaged.
        """
        runs = config.runs()
        metrics = load_metrics(study, runs)
        test = experiment.kept_data(study, "A").test
        baseline = quality(raised(lowered(test)), test)
        pictures = {t: experiment.kept_data(study, t).test[:20] for t in {r.task for r in metrics} - {"A"}}
        alive, dead = {}, {}
        for run in metrics:
            if run.task != "A":
                with suppress(StudyError):  # weights were removed to save space: the other numbers remain
                    alive[run] = experiment.alive_at_start(study, config, run, pictures[run.task])
                    dead[run] = experiment.dead_channels(study, config, run, pictures[run.task])
        return cls(config, study.metadata(), runs, metrics, baseline, alive, dead)

    @property
    def models(self) -> list[str]:
        """Models of the configuration, then the paper's that it lacks."""
        return list(dict.fromkeys([*super().models, *paper.L2]))

    def of_task(self, *phases: str) -> list[str]:
        """Models of these phases, in the paper's order within each."""
        return [m for p in phases for m in self.models if m.endswith(f"_{p}")]

    def regeneration(self, model: str, name: str) -> list[float]:
        """``"error"``, ``"correlation"`` or ``"psnr"`` of the low resolution that a model regenerates, by seed."""
        return self.values(model, f"regeneration.{name}")

    def collapsed(self, model: str) -> str:
        """How many of a model's finished runs have collapsed, ``"1 of 3"``."""
        runs = self.of(model)
        return f"{sum(bool(m['collapsed']) for m in runs.values())} of {len(runs)}"

    def _lost(self, model: str) -> int:
        return sum(0 < d < 3 for r, d in self.dead.items() if r.model == model and r.task == "B2")

    def intact(self, model: str) -> list[float]:
        """L2 of a model's runs that have kept all channels of their output alive."""
        return [float(m["l2"]) for r, m in self.metrics.items() if r.model == model and not self.dead.get(r)]

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def ratio(self, better: str, worse: str, name: str = "l2") -> Summary:
        """Logarithm of a number of model ``worse`` over that of ``better``, paired by seed.

        Args:
            better, worse: models.
            name: of the number, see :meth:`values`.
        """
        return paired_log_ratio(*self.paired(worse, better, name))

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then controls that it does not have."""
        rr, decoder = self.headline, self.decoder
        matched = (
            f"{rr} outperforms Std that has trained as long in phase I (compute-matched), after transfer to {{task}}"
        )
        untied = f"{rr} outperforms an untied decoder of the same shape, after transfer to {{task}}"
        early = f"{rr} outperforms Std after {self.config.early:.0%} of phase I, after transfer to {{task}}"
        leaky = f"{rr} outperforms Std with a leaky last ReLU, after transfer to {{task}}"
        scratch = f"{rr} outperforms training on {{task}} from scratch with a leaky last ReLU"
        controls = [
            *((matched, p, f"StdC_{p}") for p in _TRANSFERS),
            *((untied, p, f"{decoder}_{p}") for p in _TRANSFERS),
            (early, "AB1-early", "Std_AB1-early"),
            *((leaky, f"{p}-{LEAKY}", f"Std_{p}-{LEAKY}") for p in _TRANSFERS),
            *((scratch, f"{p}-{LEAKY}", f"Std_{p[1:]}-{LEAKY}") for p in _TRANSFERS),
        ]
        than_std = f"{rr}_A recovers more of the input than Std_A"
        than_decoder = f"{rr}_A recovers more of the input than an untied decoder does"
        return [
            self._upscales(f"{rr}_A"),
            self._upscales("Std_A"),
            self._recovers(f"{rr}_A"),
            self._fails("Std_A"),
            self._compared(Claim(than_std, "Section 5.3, Figure 8", f"{rr}_A", "Std_A"), "regeneration.error"),
            *map(self._compared, paper.claims(rr)),
            self._compared(Claim(than_decoder, CONTROL, f"{rr}_A", f"{decoder}_A"), "regeneration.error"),
            *(
                self._compared(Claim(statement.format(task=p[1:3]), CONTROL, f"{rr}_{p}", worse))
                for statement, p, worse in controls
            ),
        ]

    def _compared(self, claim: Claim, name: str = "l2") -> Verdict:
        """What the paired ratio of a number says: the better model has less of it."""
        better, worse = claim.better, claim.worse
        gain = self.ratio(better, worse, name)
        if gain.n < 2:
            return Verdict(claim.statement, claim.where, "not run", self.missing(better, worse))
        parts = [
            f"{'L2' if name == 'l2' else 'error'} of {worse} over that of {better} = {factor(gain.mean)} (geometric "
            f"mean, paired by seed), {factor_bounds(gain)}, n = {gain.n}"
        ]
        if name == "l2":
            medians = [median(self.values(m, "l2")) for m in (worse, better)]
            parts.append(f"medians {medians[0]:.4g} and {medians[1]:.4g}")
            parts.append(f"collapsed: {worse} {self.collapsed(worse)}, {better} {self.collapsed(better)}")
            lost = [self._lost(m) for m in (worse, better)]
            if any(lost):
                parts.append(f"runs that lost a colour channel: {worse} {lost[0]}, {better} {lost[1]}")
            if worse in paper.L2 and better in paper.L2:
                ratios = [f(paper.L2[worse]) / f(paper.L2[better]) for f in (np.mean, median)]  # type: ignore[operator]
                parts.append(f"the paper has ×{ratios[0]:.3g} by means, ×{ratios[1]:.3g} by medians")
        return Verdict(claim.statement, claim.where, outcome(gain), "; ".join(parts))

    def _upscales(self, model: str) -> Verdict:
        claim, where = f"{model} upscales well: better than nearest upsampling", "Section 5.3, Figure 8"
        gains = [p - self.baseline["psnr"] for p in self.values(model, "psnr")]
        if len(gains) < 2:
            return Verdict(claim, where, "not run", self.missing(model))
        gain = summarise(gains)
        evidence = (
            f"PSNR {gain.mean:+.2f} dB above nearest upsampling's {self.baseline['psnr']:.2f} dB, "
            f"{bounds(gain, 2, '+')}, n = {gain.n}"
        )
        return Verdict(claim, where, outcome(gain), evidence)

    def _recovers(self, model: str) -> Verdict:
        claim = f"{model} recovers the low resolution: error below {MOST:g} of its variance"
        return self._regenerates(model, claim, MOST, below=True)

    def _fails(self, model: str) -> Verdict:
        claim = f"{model} fails to: its error is not below the variance, no better than the mean value"
        return self._regenerates(model, claim, 1.0, below=False)

    def _regenerates(self, model: str, claim: str, limit: float, *, below: bool) -> Verdict:
        where, errors = "Section 5.3, Figure 8", self.regeneration(model, "error")
        if len(errors) < 2:
            return Verdict(claim, where, "not run", self.missing(model))
        limits = [limit] * len(errors)
        logs = paired_log_ratio(*((limits, errors) if below else (errors, limits)))
        evidence = (
            f"error {summarise(errors).mean:.3g} (runs: {', '.join(f'{e:.3g}' for e in errors)}), correlation "
            f"{np.mean(self.regeneration(model, 'correlation')):.2f}; "
            f"{'limit over error' if below else 'error over limit'} = {factor(logs.mean)} (geometric mean), "
            f"{factor_bounds(logs)}, n = {logs.n}"
        )
        return Verdict(claim, where, outcome(logs), evidence)

    # --- budget -------------------------------------------------------------------------------------------------------

    def settled(self) -> list[Settled]:
        """Every pair of Std and racecar that is run, and from scratch."""
        rr = self.headline
        pairs = [
            ("phase I: L2 of the super-resolution", f"{rr}_A", "Std_A", "l2"),
            ("phase I: error of the regenerated input", f"{rr}_A", "Std_A", "regeneration_error"),
            *(
                (f"{p}: L2", f"{rr}_{p}", f"Std_{p}", "l2")
                for p in (*_TRANSFERS, "AB1-early", *(f"{p}-{LEAKY}" for p in _TRANSFERS))
            ),
            *((f"A{p} against {p}: L2", f"{rr}_A{p}", f"Std_{p}", "l2") for p in ("B1", "B2")),
        ]
        compared = []
        for subject, a, b, name in pairs:
            ours, theirs = self.of(a), self.of(b)
            seeds = [s for s in ours if s in theirs and not (ours[s].get("diverged") or theirs[s].get("diverged"))]
            if len(seeds) > 1:
                histories = [(ours[s]["history"], theirs[s]["history"]) for s in seeds]
                compared.append(_settled(subject, a, b, histories, name))
        return compared

    def flatness(self, model: str) -> float:
        """By what share a model's L2 still fell over the last fifth of the steps, median over seeds; NaN for none."""
        falls = []
        for metrics in self.of(model).values():
            history = metrics["history"]
            late = [p for p in history if p["step"] <= 0.8 * metrics["steps"]]
            if late and history:
                falls.append(1 - history[-1]["l2"] / late[-1]["l2"])
        return median(falls) if falls else math.nan

    # --- tables -------------------------------------------------------------------------------------------------------

    def not_run(self) -> list[str]:
        """What is missing, in sentences."""
        planned = super().models
        absent = [m for m in paper.L2 if m not in planned]
        lines = [f"{', '.join(absent)} of Table 6: not in this configuration."] if absent else []
        lines += self.unfinished()
        if self.config.seeds < 3:
            lines.append(f"The paper has 3 runs of each model, this configuration {self.config.seeds}.")
        other = {k: v for k, v in paper.TABLE_14.items() if getattr(self.config, k) != v}
        if other:
            settings = ", ".join(f"{k} {getattr(self.config, k):g} ({v:g} in the paper)" for k, v in other.items())
            lines.append(f"Tables 13 and 14 in full were not run: here {settings}.")
        config = self.config
        lines.append(
            f"Steps: {config.steps_a} of phase I and {config.steps_b} of the auto-encoders, of {config.batch_size} "
            f"pictures each; the paper says {paper.EPOCHS_A} and {paper.EPOCHS_B} epochs."
        )
        lines += [f"Diverged: {r.model}, seed {r.seed}: {text}." for r, text in self.diverged.items()]
        lines.append("LPIPS and DISTS need weights that have to be downloaded: the perceptual distance is 1 − SSIM.")
        return lines

    def cost_rows(self) -> list[list[str | None]]:
        """Variant; seconds per step of phase I, median and range, or None; ratio to Std."""
        std = self.values("Std_A", "seconds_per_step")
        rows = []
        for variant in self.variants:
            ours = self.values(f"{variant.label}_A", "seconds_per_step")
            shown = f"{median(ours):.3f} ({min(ours):.3f} – {max(ours):.3f}), n = {len(ours)}" if ours else None
            rows.append(
                [variant.label, shown, f"{median(ours) / median(std):.2f}×" if min(len(ours), len(std)) > 1 else "—"]
            )
        return rows


def _settled(
    subject: str, a: str, b: str, histories: Sequence[tuple[Sequence[Mapping[str, Any]], ...]], name: str
) -> Settled:
    """Which of the models ``a`` and ``b`` is ahead and since when, from pairs of their histories."""
    tables = [[{p["step"]: p[name] for p in history} for history in pair] for pair in histories]
    steps = sorted(set.intersection(*(set(table) for pair in tables for table in pair)))
    logs = np.array([[math.log(max(pair[1][s], 1e-12) / max(pair[0][s], 1e-12)) for s in steps] for pair in tables])
    means = logs.mean(0)
    sign = 1.0 if means[-1] >= 0 else -1.0
    wrong = np.flatnonzero(means * sign < 0)
    first = steps[wrong[-1] + 1] if len(wrong) else steps[0]
    end = summarise((sign * logs[:, -1]).tolist())
    return Settled(subject, a if sign > 0 else b, first if end.low > 0 else None, steps[-1], end)
