"""The page of the smoke study, and the same for a repository: Table 6, Figures 8, 9, 18 to 21, budget, verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure as MatplotlibFigure

import racecar
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes, write_text
from racecar.study.core.folder import Study
from racecar.study.report import Block, Cell, Column, Command, Figure, KeyValues, Page, Section, Table, Text, Verdicts
from racecar.study.report.claims import CONTROL
from racecar.study.report.figures import png, svg
from racecar.study.report.markdown import file_stem, markdown, portable, verdict_lines
from racecar.study.report.results import model_cell
from racecar.study.report.statistics import summarise
from racecar.study.smoke import experiment, figures, paper
from racecar.study.smoke.config import EARLY, LEAKY, SmokeConfig
from racecar.study.smoke.frames import spaced
from racecar.study.smoke.quality import COLLAPSED
from racecar.study.smoke.results import SmokeResults, log_bounds, times

TITLE = "Smoke: super-resolution, then auto-encoders of simulated and real smoke"
L2 = (
    "L2 is ½ Σ of squared differences over the pixels and channels of one picture, mean over the test pictures. The "
    "paper does not say over how many pictures and pixels its sum goes: only ratios can be compared."
)
_MANY = "Every interval is for one comparison, without a correction for their number."
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

Rows = list[list[object]]


@dataclass(frozen=True)
class _Table:
    title: str
    header: list[str]
    rows: Rows
    note: str

    def block(self) -> Table:
        """For the page: the first column's models with their colours."""
        columns = [Column(h, numeric=i > 0) for i, h in enumerate(self.header)]
        rows: list[Sequence[object]] = [[_cell(c, i) for i, c in enumerate(row)] for row in self.rows]
        return Table(columns, rows, self.title, self.note)

    def lines(self) -> list[str]:
        """For a repository."""
        return [f"## {self.title}", "", *markdown(self.header, self.rows), "", self.note, ""]


def _cell(content: object, column: int) -> object:
    if column == 0 and isinstance(content, str) and "_" in content:
        return model_cell(content)
    return None if content == "not run" else Cell(content)


@dataclass(frozen=True)
class _Drawing:
    name: str
    figure: MatplotlibFigure
    caption: str
    dpi: int = 90

    def block(self) -> Figure:
        """For the page."""
        return Figure(svg(self.figure), self.caption, self.caption)


def page(study: Study, config: SmokeConfig) -> Page:
    """Build the report from what is finished; missing runs say so.

    Raises:
        StudyError: a file of the study is missing or damaged.
    """
    results = SmokeResults.load(study, config)
    about = results.about
    setting = f" ({about['setting']})" if about.get("setting") else ""
    drawn = {d.name: d.block() for d in _drawings(study, config, results)}

    def shown(*names: str) -> list[Block]:
        return [drawn[n] for n in names if n in drawn]

    tables = {name: t.block() for name, t in _tables(results).items()}
    return Page(
        f"{TITLE}{setting}",
        f"{results.sources} {len(results.metrics)} networks trained in {about['seconds']:.0f} s.",
        [
            Section("The smoke", shown("data")),
            Section("Task A: super-resolution", [*shown("figure-8"), tables["a"], *shown("curves-a")]),
            Section("Tasks B1 and B2: auto-encoders", [tables["b"], *shown("figure-9", "figures-18-20")]),
            Section("What they make of test pictures", shown("figure-19", "figure-21")),
            Section("At what budget the order is settled", [tables["budget"]]),
            Section("Cost", [tables["cost"]]),
            Section("What was not run", [Text("\n\n".join(results.not_run()))]),
            Section(
                "How it was run",
                [
                    Command(about["command"]),
                    KeyValues(asdict(config), "Configuration", open=True),
                    KeyValues(about["environment"], "Environment"),
                ],
            ),
        ],
        summary_blocks=[
            Verdicts(results.verdicts()),
            Text(f"{L2} Where it says **{CONTROL}**, **reproduced** means that the statement holds here. {_MANY}"),
        ],
        command=about["command"],
    )


def write_results(study: Study, config: SmokeConfig, folder: Path) -> list[Path]:
    """The numbers as Markdown and the figures as PNG, with the command, hardware and versions they come from."""
    results = SmokeResults.load(study, config)
    about = results.about
    environment = about["environment"]
    accelerator = environment.get("accelerator", "none")
    hardware = environment["processor"] + (f", {accelerator}" if accelerator != "none" else "")
    setting = str(about.get("setting", ""))
    stem = file_stem(experiment.NAME, setting)
    lines = [
        f"# {TITLE}{f', {setting}' if setting else ''}",
        "",
        f"`{portable(about['command'])}`",
        "",
        f"{results.sources} {hardware}, torch {environment['torch']}, Python {environment['python']}, revision "
        f"{', '.join(about.get('revisions') or [environment['revision']])}; {len(results.metrics)} networks in "
        f"{about['seconds']:.0f} s. Seeds 0 to "
        f"{config.seeds - 1}.",
        "",
        "## Verdicts",
        "",
        *verdict_lines(results.verdicts()),
        "",
        f'{L2} Where it says "{CONTROL}", reproduced means that the statement holds here. {_MANY}',
        "",
    ]
    for table in _tables(results).values():
        lines += table.lines()
    lines += ["## Not run", "", *(f"- {m}" for m in results.not_run()), "", "## Figures", ""]
    written = [folder / f"{stem}.md"]
    for drawing in _drawings(study, config, results):
        path = folder / f"{stem}-{drawing.name}.png"
        write_bytes(path, png(drawing.figure, drawing.dpi))
        written.append(path)
        lines += [f"![{drawing.name}]({path.name})", "", drawing.caption, ""]
    write_text(written[0], "\n".join(lines).rstrip() + "\n")
    return written


# --- tables -----------------------------------------------------------------------------------------------------------


def _tables(results: SmokeResults) -> dict[str, _Table]:
    return {
        "a": _Table(
            "Task A",
            ["model", "n", "L2", "PSNR, dB", "1 − SSIM", "error of I'", "correlation of I'"],
            [*_rows_a(results), _baseline(results)],
            f"Means ± standard deviations over seeds. {L2} {_ERROR} {results.sources}",
        ),
        "b": _Table(
            "Tasks B1 and B2",
            _HEADER_B,
            _rows_b(results),
            f"{L2} {_COLLAPSE} {_DEAD} {_constants(results)} {results.sources}",
        ),
        "budget": _Table(
            "At what budget the order is settled",
            ["what", "ahead at the end", "settled from step", "of", "ratio", "n", "L2 fell over the last fifth"],
            _rows_budget(results),
            f"{_SETTLED} The last column: median over seeds, of the model ahead.",
        ),
        "cost": _Table(
            "Seconds per step of phase I",
            ["variant", "median (range)", "× Std"],
            [list(row) for row in results.cost_rows()],
            "Two training processes shared the machine with each other and with whatever else ran: only a hint. "
            f"StdC: Std with {results.config.compute_match:g} times the steps.",
        ),
    }


def _rows_a(results: SmokeResults) -> Rows:
    rows: Rows = []
    for model in results.of_task("A"):
        if not (count := len(results.of(model))):
            rows.append([model, 0, *["not run"] * 5])
            continue
        names = ("l2", "psnr", "dssim")
        rows.append(
            [
                model,
                count,
                *(_spread(results.values(model, n)) for n in names),
                _spread(results.regeneration(model, "error")),
                _spread(results.regeneration(model, "correlation")),
            ]
        )
    return rows


def _baseline(results: SmokeResults) -> list[object]:
    found = results.baseline
    return ["nearest upsampling", "—", *(f"{found[n]:.4g}" for n in ("l2", "psnr", "dssim")), "—", "—"]


_HEADER_B = [
    "model",
    "n",
    "L2, mean ± sd",
    "median",
    "runs by seed",
    "collapsed",
    "alive at the start",
    "dead",
    "intact",
]
_HEADER_B += ["PSNR, dB", "1 − SSIM", "paper: L2, mean", "paper: median"]
_WAYS = ("", f"-{EARLY}", f"-{LEAKY}")


def _rows_b(results: SmokeResults) -> Rows:
    rows: Rows = []
    for model in results.of_task(
        *(f"{phase}{way}" for task in ("B1", "B2") for way in _WAYS for phase in (f"A{task}", task))
    ):
        theirs = paper.L2.get(model)
        words = [f"{sum(theirs) / len(theirs):.4g}", f"{median(theirs):.4g}"] if theirs else ["—", "—"]
        if not results.of(model):
            if theirs:  # the others are named under "not run"
                rows.append([model, 0, *["not run"] * (len(_HEADER_B) - 4), *words])
            continue
        values = results.values(model)
        intact = results.intact(model)
        dead = [d for r, d in sorted(results.dead.items(), key=lambda i: i[0]) if r.model == model]
        alive = [a for r, a in sorted(results.alive.items(), key=lambda i: i[0]) if r.model == model]
        rows.append(
            [
                model,
                len(values),
                _spread(values),
                f"{median(values):.4g}",
                ", ".join(f"{v:.4g}" for v in values),
                results.collapsed(model),
                ", ".join(f"{a:.2%}" for a in alive),
                ", ".join(map(str, dead)),
                f"{median(intact):.4g}, n = {len(intact)}" if intact else "none",
                _spread(results.values(model, "psnr")),
                _spread(results.values(model, "dssim")),
                *words,
            ]
        )
    return rows


def _constants(results: SmokeResults) -> str:
    found = {r.task: m["constants"] for r, m in results.metrics.items() if r.task != "A"}
    return " ".join(
        f"{task}: a black picture has L2 {c['black']:.4g}, a uniform one in the mean colour {c['grey']:.4g}."
        for task, c in sorted(found.items())
    )


def _rows_budget(results: SmokeResults) -> Rows:
    rows: Rows = []
    for s in results.settled():
        fall = results.flatness(s.ahead)
        rows.append(
            [
                s.words,
                s.ahead,
                s.step if s.step is not None else "not settled",
                s.total,
                f"{times(s.end.mean)}, {log_bounds(s.end)}",
                s.end.n,
                "—" if math.isnan(fall) else f"{fall:.1%}",
            ]
        )
    return rows


def _spread(values: Sequence[float]) -> str:
    found = summarise(values)
    return f"{found.mean:.4g}" + (f" ± {found.sd:.2g}" if found.n > 1 else "")


# --- figures ----------------------------------------------------------------------------------------------------------


def _drawings(study: Study, config: SmokeConfig, results: SmokeResults) -> list[_Drawing]:
    sets = {"simulated, training": experiment.kept_data(study, "A").train}
    sets["simulated, test"] = experiment.kept_data(study, "A").test
    if experiment.has_data(study, "B2"):
        sets |= {"real, training": experiment.kept_data(study, "B2").train}
        sets |= {"real, test": experiment.kept_data(study, "B2").test}
    found = [_Drawing("data", figures.strips(sets), f"The pictures, evenly spaced over each set. {results.sources}")]
    found += _figure_8(study, config, results)
    if any(results.of(m) for m in results.of_task("A")):
        words = (
            "Phase I on test pictures: thin lines are runs, thick ones their median. Dashed: as good as a mean value."
        )
        found.append(_Drawing("curves-a", figures.curves_a(results), words))
    if any(r.task != "A" for r in results.metrics):
        words = (
            "**Figure 9**: L2 of the auto-encoders, logarithmic. Bars: medians; dots: runs; crosses: collapsed runs; "
            f"dashed: a black picture. Below, Table 6. {L2}"
        )
        found.append(_Drawing("figure-9", figures.figure_9(results), words))
        words = "**Figures 18 and 20**: test L2 against steps; thin lines are runs, thick ones their median."
        found.append(_Drawing("figures-18-20", figures.curves_b(results), words))
    return found + _figure_19(study, config, results, "B1", 19) + _figure_19(study, config, results, "B2", 21)


def _figure_8(study: Study, config: SmokeConfig, results: SmokeResults) -> list[_Drawing]:
    reference = spaced(experiment.kept_data(study, "A").test, 8)
    runs = [run for m in results.of_task("A") if (run := results.median_run(m)) is not None]
    try:
        pictures = {r.model: experiment.super_resolved(study, config, r, reference) for r in runs}
    except (StudyError, racecar.RacecarError, RuntimeError):  # weights were removed to save space: numbers remain
        return []
    if not pictures:
        return []
    seeds = ", ".join(f"{r.model} seed {r.seed}" for r in runs)
    words = f"**Figure 8**: test pictures; every model by its run of median L2 ({seeds}). Clipped to 0 … 1."
    return [_Drawing("figure-8", figures.figure_8(reference, pictures), words, 70)]


def _figure_19(study: Study, config: SmokeConfig, results: SmokeResults, task: str, number: int) -> list[_Drawing]:
    runs = [run for m in results.of_task(f"A{task}", task) if (run := results.median_run(m)) is not None]
    if not runs:
        return []
    reference = spaced(experiment.kept_data(study, task).test, 4)
    try:
        outputs = {r.model: experiment.auto_encoded(study, config, r, reference) for r in runs}
    except (StudyError, RuntimeError):
        return []
    words = (
        f"**Figure {number}**: test pictures of {task}, encoded and decoded, beside their absolute errors (one scale; "
        "their mean in the corner). Every model by its run of median L2."
    )
    return [_Drawing(f"figure-{number}", figures.figure_19(reference, outputs), words, 70)]
