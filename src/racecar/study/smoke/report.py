"""The report of the smoke study: Table 6, Figures 8, 9, 18 to 21, at what budget an order is settled, verdicts."""

from __future__ import annotations

import math
from functools import partial
from statistics import median

from torch import Tensor

import racecar
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.report import Block, Column, Figure, Page, Remarks, Section, Table, Text, Verdicts
from racecar.study.report.blocks import Record
from racecar.study.report.claims import CONTROLS_NOTE, UNCORRECTED_NOTE
from racecar.study.report.markdown import file_stem
from racecar.study.report.results import model_cell
from racecar.study.report.statistics import factor, factor_bounds, spread_at_scale, summarise
from racecar.study.smoke import experiment, figures, paper
from racecar.study.smoke.config import EARLY, LEAKY, SmokeConfig
from racecar.study.smoke.frames import spaced
from racecar.study.smoke.quality import COLLAPSED
from racecar.study.smoke.results import SmokeResults

L2 = (
    "L2 is ½ Σ of squared differences over the pixels and channels of one picture, mean over the test pictures. The "
    "paper does not say over how many pictures and pixels its sum goes: only ratios can be compared."
)
_DEAD = (
    "Dead: channels of the output that are 0 on all of 20 test pictures at the end, by seed. Intact: median L2 of the "
    "runs without any."
)
_COLLAPSE = (
    f"Collapsed: L2 above {COLLAPSED:g} of that of a uniform picture in the mean colour. Alive at the start: share of "
    "the output's pixels above 0 before the first step, on 20 test pictures; where the last ReLU is 0 there is no "
    "gradient, so an output that starts dark everywhere stays black."
)
_ERROR = (
    "Error: mean squared difference of the low resolution and the regenerated one over the former's variance, so that "
    "1 is as good as its mean value."
)
_SETTLED = (
    "Settled from: the first measured step since when the same model is ahead, by the mean over seeds of logarithms. "
    "Not settled: the interval at the end holds ×1. Ratio: at the end, the other model's over that of the one ahead, "
    "with its 95 % CI."
)


def page(study: Study, config: SmokeConfig) -> Page:
    """Build the report from what is finished; missing runs say so.

    Raises:
        StudyError: a file of the study is missing or damaged.
    """
    results = SmokeResults.load(study, config)
    provenance = results.provenance(results.sources, "networks", f"Seeds 0 to {config.seeds - 1}.")
    return Page(
        "Smoke: super-resolution, then auto-encoders of simulated and real smoke",
        f"{results.sources} {provenance.amount} trained in {results.metadata['seconds']:.0f} s.",
        [
            Section("The smoke", [_data(study, results)]),
            Section(
                "Task A: super-resolution",
                [*_super_resolved(study, results), _table_a(results), *_curves_a(results)],
                short="Task A",
            ),
            Section(
                "Tasks B1 and B2: auto-encoders", [_table_b(results), *_curves_b(results)], short="Tasks B1 and B2"
            ),
            Section(
                "What they make of test pictures",
                [*_auto_encoded(study, results, "B1", 19), *_auto_encoded(study, results, "B2", 21)],
            ),
            Section("At what budget the order is settled", [_budget(results)]),
            Section("Cost", [_cost(results)], short="Seconds per step of phase I"),
            Section("Not run", [Remarks(results.not_run())]),
        ],
        summary_blocks=[
            Verdicts(results.verdicts(), folded=results.is_smoke_test),
            Text(f"{L2} {CONTROLS_NOTE} {UNCORRECTED_NOTE}"),
        ],
        command=provenance.command,
        setting=results.setting,
        provenance=provenance,
        name=file_stem(experiment.NAME, results.setting),
        answer=results.answer,
        figure=_figure_9(results),
        smoke_test=results.is_smoke_test,
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(title: str, columns: list[str], records: list[Record], note: str) -> Table:
    return Table.of(records, [Column(c, numeric=i > 0) for i, c in enumerate(columns)], title, note)


def _spread(values: list[float]) -> str:
    return spread_at_scale(summarise(values), 4)


def _table_a(results: SmokeResults) -> Table:
    records: list[Record] = []
    for model in results.of_task("A"):
        count = len(results.of(model))
        record: dict[str, object] = {"model": model_cell(model), "n": count}
        if count:
            record |= {
                "L2": _spread(results.values(model, "l2")),
                "PSNR, dB": _spread(results.values(model, "psnr")),
                "1 − SSIM": _spread(results.values(model, "dssim")),
                "error of I'": _spread(results.regeneration(model, "error")),
                "correlation of I'": _spread(results.regeneration(model, "correlation")),
            }
        records.append(record)
    nearest = {"L2": "l2", "PSNR, dB": "psnr", "1 − SSIM": "dssim"}
    records.append(
        {"model": "nearest upsampling", **dict.fromkeys(("n", "error of I'", "correlation of I'"), "—")}
        | {column: f"{results.baseline[name]:.4g}" for column, name in nearest.items()}
    )
    return _table(
        "Task A",
        ["model", "n", "L2", "PSNR, dB", "1 − SSIM", "error of I'", "correlation of I'"],
        records,
        f"Means ± standard deviations over seeds. {_ERROR}",
    )


_WAYS = ("", f"-{EARLY}", f"-{LEAKY}")
# fmt: off
_COLUMNS_B = [
    "model", "n", "L2, mean ± sd", "median", "runs by seed", "collapsed", "alive at the start", "dead", "intact",
    "PSNR, dB", "1 − SSIM", "paper: L2, mean", "paper: median",
]
# fmt: on


def _table_b(results: SmokeResults) -> Table:
    phases = [f"{phase}{way}" for task in ("B1", "B2") for way in _WAYS for phase in (f"A{task}", task)]
    # Models that are neither run nor in the paper are named under "not run".
    shown = [m for m in results.of_task(*phases) if results.of(m) or m in paper.L2]
    note = f"{_COLLAPSE} {_DEAD} {_constants(results)}"
    return _table("Tasks B1 and B2", _COLUMNS_B, [_record_b(results, m) for m in shown], note)


def _record_b(results: SmokeResults, model: str) -> Record:
    theirs = paper.L2.get(model)
    record: dict[str, object] = {
        "model": model_cell(model),
        "n": len(results.of(model)),
        "paper: L2, mean": f"{sum(theirs) / len(theirs):.4g}" if theirs else "—",
        "paper: median": f"{median(theirs):.4g}" if theirs else "—",
    }
    if not results.of(model):
        return record
    values, intact = results.values(model, "l2"), results.intact(model)
    return record | {
        "L2, mean ± sd": _spread(values),
        "median": f"{median(values):.4g}",
        "runs by seed": ", ".join(f"{v:.4g}" for v in values),
        "collapsed": results.collapsed(model),
        "alive at the start": ", ".join(f"{a:.2%}" for r, a in sorted(results.alive.items()) if r.model == model),
        "dead": ", ".join(str(d) for r, d in sorted(results.dead.items()) if r.model == model),
        "intact": f"{median(intact):.4g}, n = {len(intact)}" if intact else "none",
        "PSNR, dB": _spread(results.values(model, "psnr")),
        "1 − SSIM": _spread(results.values(model, "dssim")),
    }


def _constants(results: SmokeResults) -> str:
    constants = {r.task: m["constants"] for r, m in results.metrics.items() if r.task != "A"}
    return " ".join(
        f"{task}: a black picture has L2 {c['black']:.4g}, a uniform one in the mean colour {c['grey']:.4g}."
        for task, c in sorted(constants.items())
    )


def _budget(results: SmokeResults) -> Table:
    records: list[Record] = []
    for s in results.settled():
        fall = results.flatness(s.ahead)
        records.append(
            {
                "what": s.subject,
                "ahead at the end": s.ahead,
                "settled from step": s.step if s.step is not None else "not settled",
                "of": s.total,
                "ratio": f"{factor(s.end.mean)}, {factor_bounds(s.end)}",
                "n": s.end.n,
                "L2 fell over the last fifth": "—" if math.isnan(fall) else f"{fall:.1%}",
            }
        )
    return _table(
        "At what budget the order is settled",
        ["what", "ahead at the end", "settled from step", "of", "ratio", "n", "L2 fell over the last fifth"],
        records,
        f"{_SETTLED} The last column: median over seeds, of the model ahead.",
    )


def _cost(results: SmokeResults) -> Table:
    columns = ["variant", "median (range)", "× Std"]
    records = [dict(zip(columns, row, strict=True)) for row in results.cost_rows()]
    note = (
        "Two training processes shared the machine with each other and with whatever else ran: only a hint. "
        f"StdC: Std with {results.config.compute_match:g} times the steps."
    )
    return _table("Seconds per step of phase I", columns, [*records], note)


# --- figures ----------------------------------------------------------------------------------------------------------


def _data(study: Study, results: SmokeResults) -> Figure:
    sets: dict[str, Tensor] = {}
    for what, task in (("simulated", "A"), ("real", "B2")):
        if task == "A" or experiment.has_data(study, task):
            frames = experiment.kept_data(study, task)
            sets |= {f"{what}, training": frames.train, f"{what}, test": frames.test}
    caption = "The pictures, evenly spaced over each set."
    return Figure(partial(figures.strips, sets), caption, caption, "data", dpi=90)


def _super_resolved(study: Study, results: SmokeResults) -> list[Block]:
    reference = spaced(experiment.kept_data(study, "A").test, 8)
    runs = [run for m in results.of_task("A") if (run := results.median_run(m)) is not None]
    try:
        pictures = {r.model: experiment.super_resolved(study, results.config, r, reference) for r in runs}
    except (StudyError, racecar.RacecarError, RuntimeError):  # weights were removed to save space: numbers remain
        return []
    if not pictures:
        return []
    seeds = ", ".join(f"{r.model} seed {r.seed}" for r in runs)
    caption = f"**Figure 8**: test pictures; every model by its run of median L2 ({seeds}). Clipped to 0 … 1."
    return [Figure(partial(figures.figure_8, reference, pictures), caption, caption, "figure-8", dpi=70)]


def _curves_a(results: SmokeResults) -> list[Block]:
    if not _has_curves(results, "A"):
        return []
    caption = "Phase I on test pictures: thin lines are runs, thick ones their median. Dashed: as good as a mean value."
    return [Figure(partial(figures.curves_a, results), caption, caption, "curves-a", dpi=90)]


def _has_curves(results: SmokeResults, *tasks: str) -> bool:
    """Whether a run of these tasks was measured more than once."""
    return any(len(m["history"]) > 1 for run, m in results.metrics.items() if run.task in tasks)


def _figure_9(results: SmokeResults) -> Figure | None:
    if all(r.task == "A" for r in results.metrics):
        return None
    caption = (
        "**Figure 9**: L2 of the auto-encoders, logarithmic. Medians with lines from the least to the most; small "
        "dots: runs; crosses: collapsed runs; dashed: a black picture. Then Table 6."
    )
    return Figure(partial(figures.figure_9, results), caption, caption, "figure-9", dpi=90)


def _curves_b(results: SmokeResults) -> list[Block]:
    if not _has_curves(results, "B1", "B2"):
        return []
    curves = "**Figures 18 and 20**: test L2 against steps; thin lines are runs, thick ones their median."
    return [Figure(partial(figures.curves_b, results), curves, curves, "figures-18-20", dpi=90)]


def _auto_encoded(study: Study, results: SmokeResults, task: str, number: int) -> list[Block]:
    runs = [run for m in results.of_task(f"A{task}", task) if (run := results.median_run(m)) is not None]
    if not runs:
        return []
    reference = spaced(experiment.kept_data(study, task).test, 4)
    try:
        outputs = {r.model: experiment.auto_encoded(study, results.config, r, reference) for r in runs}
    except (StudyError, RuntimeError):
        return []
    caption = (
        f"**Figure {number}**: test pictures of {task}, encoded and decoded, beside their absolute errors (one scale; "
        "their mean in the corner). Every model by its run of median L2."
    )
    return [Figure(partial(figures.figure_19, reference, outputs), caption, caption, f"figure-{number}", dpi=70)]
