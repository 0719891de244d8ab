"""Numbers of the smoke study: L2 and collapses beside Table 6, verdicts, the budget at which an order is settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.report import Verdict
from racecar.study.report.claims import CONTROL
from racecar.study.report.results import load_metrics
from racecar.study.report.statistics import Summary, outcome, paired_difference, summarise
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
        words: what is compared.
        ahead: the model that is better at the end, by the mean over seeds of the logarithm of the quantity.
        step: the first measured step since when that has not changed; None where the interval at the end holds 0.
        total: the last step.
        end: paired difference of logarithms at the end, positive for ``ahead``.
    """

    words: str
    ahead: str
    step: int | None
    total: int
    end: Summary


@dataclass(frozen=True)
class SmokeResults:
    """Everything the tables and figures show.

    Attributes:
        config: of the study.
        metrics: per finished run, the content of its run.json.
        about: the content of study.json.
        baseline: quality of nearest-neighbour upsampling on task A's test pictures.
        alive: per run of an auto-encoder, the share of its output above 0 before the first step.
        dead: per run of an auto-encoder, how many of its output's channels are 0 everywhere at the end.
    """

    config: SmokeConfig
    metrics: Mapping[Run, Mapping[str, Any]]
    about: Mapping[str, Any]
    baseline: Mapping[str, float]
    alive: Mapping[Run, float]
    dead: Mapping[Run, int]

    @classmethod
    def load(cls, study: Study, config: SmokeConfig) -> SmokeResults:
        """Read the finished runs of a configuration.

        Raises:
            StudyError: a file of the study is missing or damaged.
        """
        metrics = load_metrics(study, config.runs())
        test = experiment.kept_data(study, "A").test
        baseline = quality(raised(lowered(test)), test)
        pictures = {t: experiment.kept_data(study, t).test[:20] for t in {r.task for r in metrics} - {"A"}}
        alive, dead = {}, {}
        for run in metrics:
            if run.task != "A":
                with suppress(StudyError):  # weights were removed to save space: the other numbers remain
                    alive[run] = experiment.alive_at_start(study, config, run, pictures[run.task])
                    dead[run] = experiment.dead_channels(study, config, run, pictures[run.task])
        return cls(config, metrics, study.about(), baseline, alive, dead)

    @property
    def variants(self) -> list[Variant]:
        """Of the configuration, each once."""
        return list(dict.fromkeys(Variant.parse(v) for v in self.config.variants))

    @property
    def models(self) -> list[str]:
        """Those of the configuration, then the paper's that it lacks."""
        return list(dict.fromkeys([*(r.model for r in self.config.runs()), *paper.L2]))

    @property
    def headline(self) -> str:
        """The deepest racecar variant, by label."""
        found = sorted((v for v in self.variants if v.family == "RR"), key=lambda v: v.depth)
        return found[-1].label if found else "RR^6"

    def of_task(self, *phases: str) -> list[str]:
        """Models of these phases, in the paper's order within each."""
        return [m for p in phases for m in self.models if m.endswith(f"_{p}")]

    def of(self, model: str) -> dict[int, Mapping[str, Any]]:
        """Metrics of a model's finished runs by seed, in order."""
        return {r.seed: m for r, m in sorted(self.metrics.items(), key=lambda item: item[0]) if r.model == model}

    def values(self, model: str, name: str = "l2") -> list[float]:
        """One number of every finished run, by seed."""
        return [float(m[name]) for m in self.of(model).values()]

    def regeneration(self, model: str, name: str) -> list[float]:
        """``"error"``, ``"correlation"`` or ``"psnr"`` of the regenerated low resolution, by seed."""
        return [float(m["regeneration"][name]) for m in self.of(model).values() if "regeneration" in m]

    def collapsed(self, model: str) -> str:
        """``"1 of 3"``."""
        found = self.of(model)
        return f"{sum(bool(m['collapsed']) for m in found.values())} of {len(found)}"

    def median_run(self, model: str) -> Run | None:
        """The finished run whose L2 is the (lower) median: no lucky one."""
        found = sorted((m["l2"], r) for r, m in self.metrics.items() if r.model == model)
        return found[(len(found) - 1) // 2][1] if found else None

    @property
    def sources(self) -> str:
        """Where the data comes from, for every table."""
        given = self.about.get("sources", {})
        return " ".join(f"Task {name}: {words}." for name, words in given.items()) or "Origin of the data not recorded."

    def _lost(self, model: str) -> int:
        return sum(0 < d < 3 for r, d in self.dead.items() if r.model == model and r.task == "B2")

    @property
    def diverged(self) -> dict[Run, str]:
        """Messages of the runs that ended early because a loss was no finite number."""
        return {r: str(m["diverged"]) for r, m in sorted(self.metrics.items(), key=lambda i: i[0]) if m.get("diverged")}

    def intact(self, model: str) -> list[float]:
        """L2 of the runs that have kept all channels of their output alive."""
        return [float(m["l2"]) for r, m in self.metrics.items() if r.model == model and not self.dead.get(r)]

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def ratio(self, better: str, worse: str, name: str = "l2") -> Summary:
        """Paired by seed: logarithm of ``worse`` over ``better``; ``name`` may be ``"regeneration.error"``."""
        ours, theirs = self.of(better), self.of(worse)
        seeds = sorted(ours.keys() & theirs.keys())
        return paired_difference(*([math.log(max(_at(m[s], name), 1e-12)) for s in seeds] for m in (theirs, ours)))

    def verdicts(self) -> list[Verdict]:
        """The paper's claims, then controls that it does not have."""
        rr = self.headline
        found = [
            self._upscales(f"{rr}_A"),
            self._upscales("Std_A"),
            self._recovers(f"{rr}_A"),
            self._fails("Std_A"),
            self._compared(
                f"{rr}_A recovers more of the input than Std_A",
                "Section 5.3, Figure 8",
                f"{rr}_A",
                "Std_A",
                "regeneration.error",
            ),
            *(self._compared(words, where, a, b) for words, where, a, b in paper.claims(rr)),
        ]
        controls = [
            (f"{rr} outperforms Std that has trained as long in phase I (compute-matched)", "AB1", "StdC_AB1"),
            (f"{rr} outperforms Std that has trained as long in phase I (compute-matched)", "AB2", "StdC_AB2"),
            (f"{rr} outperforms an untied decoder of the same shape", "AB1", f"{self._decoder}_AB1"),
            (f"{rr} outperforms an untied decoder of the same shape", "AB2", f"{self._decoder}_AB2"),
            (f"{rr} outperforms Std after {self.config.early:.0%} of phase I", "AB1-early", "Std_AB1-early"),
            *((f"{rr} outperforms Std with a leaky last ReLU", f"{p}-{LEAKY}", f"Std_{p}-{LEAKY}") for p in _TRANSFERS),
            *(
                (
                    f"{rr} outperforms training from scratch with a leaky last ReLU",
                    f"{p}-{LEAKY}",
                    f"Std_{p[1:]}-{LEAKY}",
                )
                for p in _TRANSFERS
            ),
        ]
        words = f"{rr}_A recovers more of the input than an untied decoder does"
        return [
            *found,
            self._compared(words, CONTROL, f"{rr}_A", f"{self._decoder}_A", "regeneration.error"),
            *(self._compared(w, CONTROL, f"{rr}_{p}", worse) for w, p, worse in controls),
        ]

    @property
    def _decoder(self) -> str:
        found = [v for v in self.variants if v.family == "Dec"]
        return max(found, key=lambda v: v.depth).label if found else f"Dec^{self.headline.partition('^')[2]}"

    def _compared(self, words: str, where: str, better: str, worse: str, name: str = "l2") -> Verdict:
        found = self.ratio(better, worse, name)
        if not found.n:
            return Verdict(words, where, "not run", self._missing(better, worse))
        what = "L2" if name == "l2" else "error"
        parts = [
            f"{what} of {worse} over that of {better} = {times(found.mean)} (geometric mean, paired by seed), "
            f"{log_bounds(found)}, n = {found.n}"
        ]
        if name == "l2":
            medians = [median(self.values(m)) for m in (worse, better)]
            parts.append(f"medians {medians[0]:.4g} and {medians[1]:.4g}")
            parts.append(f"collapsed: {worse} {self.collapsed(worse)}, {better} {self.collapsed(better)}")
            lost = [self._lost(m) for m in (worse, better)]
            if any(lost):
                parts.append(f"runs that lost a colour channel: {worse} {lost[0]}, {better} {lost[1]}")
            if worse in paper.L2 and better in paper.L2:
                ratios = [f(paper.L2[worse]) / f(paper.L2[better]) for f in (np.mean, median)]  # type: ignore[operator]
                parts.append(f"the paper has ×{ratios[0]:.3g} by means, ×{ratios[1]:.3g} by medians")
        return Verdict(words, where, outcome(found), "; ".join(parts))

    def _upscales(self, model: str) -> Verdict:
        words, where = f"{model} upscales well: better than nearest upsampling", "Section 5.3, Figure 8"
        gains = [p - self.baseline["psnr"] for p in self.values(model, "psnr")]
        if not gains:
            return Verdict(words, where, "not run", self._missing(model))
        found = summarise(gains)
        bounds = f"95 % CI [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 else "one run has no CI"
        evidence = f"PSNR {found.mean:+.2f} dB above nearest upsampling's {self.baseline['psnr']:.2f} dB, {bounds}"
        return Verdict(words, where, outcome(found), f"{evidence}, n = {found.n}")

    def _recovers(self, model: str) -> Verdict:
        words = f"{model} recovers the low resolution: error below {MOST:g} of its variance"
        return self._regenerates(model, words, MOST, below=True)

    def _fails(self, model: str) -> Verdict:
        words = f"{model} fails to: its error is not below the variance, no better than the mean value"
        return self._regenerates(model, words, 1.0, below=False)

    def _regenerates(self, model: str, words: str, limit: float, *, below: bool) -> Verdict:
        where, errors = "Section 5.3, Figure 8", self.regeneration(model, "error")
        if not errors:
            return Verdict(words, where, "not run", self._missing(model))
        logs = summarise([math.log(limit / max(e, 1e-12)) * (1 if below else -1) for e in errors])
        shown = summarise(errors)
        evidence = (
            f"error {shown.mean:.3g} (runs: {', '.join(f'{e:.3g}' for e in errors)}), correlation "
            f"{np.mean(self.regeneration(model, 'correlation')):.2f}; "
            f"{'limit over error' if below else 'error over limit'} = {times(logs.mean)} (geometric mean), "
            f"{log_bounds(logs)}, n = {shown.n}"
        )
        return Verdict(words, where, outcome(logs), evidence)

    def _missing(self, *models: str) -> str:
        absent = [m for m in models if not self.of(m)]
        return f"{' and '.join(absent)} not run" if absent else f"no seed has all of {', '.join(models)}"

    # --- budget -------------------------------------------------------------------------------------------------------

    def settled(self) -> list[Settled]:
        """Every pair of Std and racecar that is run, and from scratch."""
        rr, found = self.headline, []
        pairs = [
            ("phase I: L2 of the super-resolution", f"{rr}_A", "Std_A", "l2"),
            ("phase I: error of the regenerated input", f"{rr}_A", "Std_A", "regeneration_error"),
            *(
                (f"{p}: L2", f"{rr}_{p}", f"Std_{p}", "l2")
                for p in (*_TRANSFERS, "AB1-early", *(f"{p}-{LEAKY}" for p in _TRANSFERS))
            ),
            *((f"A{p} against {p}: L2", f"{rr}_A{p}", f"Std_{p}", "l2") for p in ("B1", "B2")),
        ]
        for words, a, b, name in pairs:
            ours, theirs = self.of(a), self.of(b)
            seeds = [s for s in ours if s in theirs and not (ours[s].get("diverged") or theirs[s].get("diverged"))]
            if seeds:
                found.append(_settled(words, a, b, [(ours[s]["history"], theirs[s]["history"]) for s in seeds], name))
        return found

    def flatness(self, model: str) -> float:
        """By what share L2 still fell over the last fifth of the steps, median over seeds; NaN for none."""
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
        planned = {r.model for r in self.config.runs()}
        wanted = self.config.seeds
        absent = [m for m in paper.L2 if m not in planned]
        lines = [f"{', '.join(absent)} of Table 6: not in this configuration."] if absent else []
        for count in range(wanted):
            if unfinished := [m for m in self.models if m in planned and len(self.of(m)) == count]:
                lines.append(f"{', '.join(unfinished)}: {count} of {wanted} seeds finished.")
        if wanted < 3:
            lines.append(f"The paper has 3 runs of each model, this configuration {wanted}.")
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
        lines += [f"Not judged: {v.claim} ({v.evidence})." for v in self.verdicts() if v.outcome == "not run"]
        return lines

    def cost_rows(self) -> list[list[str]]:
        """Variant; seconds per step of phase I, median and range; ratio to Std."""
        std = self.values("Std_A", "seconds_per_step")
        rows = []
        for variant in self.variants:
            ours = self.values(f"{variant.label}_A", "seconds_per_step")
            spread = f"{median(ours):.3f} ({min(ours):.3f} – {max(ours):.3f}), n = {len(ours)}" if ours else "not run"
            rows.append([variant.label, spread, f"{median(ours) / median(std):.2f}×" if ours and std else "—"])
        return rows


def times(log: float) -> str:
    """A logarithm as a factor."""
    return f"×{math.exp(log):.3g}" if log < 300 else "overflow"


def log_bounds(found: Summary) -> str:
    """A logarithm's interval as factors."""
    return f"95 % CI [{times(found.low)}, {times(found.high)}]" if found.n > 1 else "one run has no CI"


def _at(metrics: Mapping[str, Any], name: str) -> float:
    for part in name.split("."):
        metrics = metrics[part]
    return float(metrics)  # type: ignore[arg-type]


def _settled(
    words: str, a: str, b: str, histories: Sequence[tuple[Sequence[Mapping[str, Any]], ...]], name: str
) -> Settled:
    """See :class:`Settled`, for the models ``a`` and ``b`` whose histories come in pairs."""
    tables = [[{p["step"]: p[name] for p in history} for history in pair] for pair in histories]
    steps = sorted(set.intersection(*(set(table) for pair in tables for table in pair)))
    logs = np.array([[math.log(max(pair[1][s], 1e-12) / max(pair[0][s], 1e-12)) for s in steps] for pair in tables])
    means = logs.mean(0)
    sign = 1.0 if means[-1] >= 0 else -1.0
    wrong = np.flatnonzero(means * sign < 0)
    first = steps[wrong[-1] + 1] if len(wrong) else steps[0]
    end = summarise((sign * logs[:, -1]).tolist())
    return Settled(words, a if sign > 0 else b, first if end.low > 0 else None, steps[-1], end)
