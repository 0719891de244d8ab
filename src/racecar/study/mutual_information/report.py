"""The report of the 12-bit study: Tables 1 and 2 beside the paper's, Figures 2, 3, 4 and 14, verdicts, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from racecar.study.core.folder import Study
from racecar.study.core.restart import FRESH, PERTURB, SHRINK
from racecar.study.core.variants import EARLY
from racecar.study.mutual_information import figures
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.results import MutualInformationResults
from racecar.study.mutual_information.saturation import SATURATED
from racecar.study.report import Block, Cell, Column, Figure, Only, Page, Section, Table, Text, Verdicts
from racecar.study.report.figures import Measured, accuracies
from racecar.study.report.results import model_cell
from racecar.study.report.statistics import spread, summarise

_PROTOCOL = {
    "paper": "published data in file order (first 3277 train, last 819 test), accuracy as the mean over batches of "
    "512 and 307.",
    "sound": "shuffled, stratified split per seed, accuracy per sample.",
}
_NOTE = (
    "95 % CI: Student's t over seeds. The paper reports five runs. On task B the labels, and so the constant answers, "
    "are exchanged."
)


_RESTARTS = (
    f"AB-head, AB-two: phase II begins with the last layer, or the last two, drawn anew (seed + {FRESH}). AB-shrink: "
    f"with {SHRINK:g}·θ + {PERTURB:g}·θ_fresh for all weights and biases (shrink-and-perturb, Ash & Adams 2020). "
    "A-early: phase I ends after a tenth of its epochs; AB-early goes on from it."
)


def page(study: Study, config: MutualInformationConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = MutualInformationResults.load(study, config)
    provenance = results.provenance(_PROTOCOL[config.protocol], "networks", results.all_seeds)
    return Page(
        "12-bit study: how phase II begins" if results.restarts else "12-bit study",
        "Racecar training and mutual information on the 12-bit task of Shwartz-Ziv & Tishby. Protocol "
        f"**{config.protocol}**: {_PROTOCOL[config.protocol]} {provenance.amount} trained in "
        f"{results.metadata['seconds']:.0f} s.",
        [
            Section("Accuracy", _accuracy(results), lead="Tables 1 and 2 of the paper, run by run."),
            Section(
                "Mutual-information planes",
                _planes(results),
                lead="Every dot is a layer's output at one epoch, black at the first and yellow at the last, over "
                "all 4096 patterns, 30 bins on [−1, 1]. The panel shows the run with the median accuracy.",
            ),
        ],
        summary_blocks=[Verdicts(results.verdicts(), folded=results.is_smoke_test)],
        command=provenance.command,
        setting=f"{config.protocol} protocol",
        provenance=provenance,
        name=f"{'twelve-bit-restarts' if results.restarts else results.metadata['experiment']}-{config.protocol}",
        answer=results.answer,
        figure=_first(results),
        smoke_test=results.is_smoke_test,
    )


def _first(results: MutualInformationResults) -> Figure:
    panels: dict[str, list[Measured]] = {}
    for m in results.models:
        phase = m.partition("_")[2] if results.restarts else ""
        panels.setdefault(phase, []).append(Measured(m, results.accuracies(m), results.paper.get(m, ())))
    return Figure(
        partial(accuracies, panels, results.best_constant()),
        "Means with 95 % intervals (Student's t over seeds), small dots: runs; diamonds: the paper's; dashed: the best "
        "constant answer.",
        "Test accuracy, a row for each model",
        name="accuracy" if results.restarts else "",
    )


def _accuracy(results: MutualInformationResults) -> list[Block]:
    note = f"{_NOTE} {_RESTARTS}" if results.restarts else _NOTE
    blocks = results.accuracy_tables(
        "Test accuracy at the last epoch.", note, {"Constant answer": results.constant_records()}
    )
    saturated = _saturation(results)
    return [*blocks, saturated] if saturated.rows else blocks


def _saturation(results: MutualInformationResults) -> Table:
    """What phase II is handed: how far the last layer's tanh has gone in phase I."""
    rows: list[Sequence[object]] = []
    for model in results.models:
        shares, slopes = (results.saturation(model, name) for name in ("saturated", "slope"))
        if model.partition("_")[2] in ("A", EARLY) and shares:
            rows.append([model_cell(model), len(shares), spread(summarise(shares)), spread(summarise(slopes))])
    columns: list[str | Column] = ["model", *(Column(n, numeric=True) for n in ("n", "saturated outputs after A"))]
    return Table(
        [*columns, Column("mean 1 − y² after A", numeric=True)],
        rows,
        "How saturated the last layer is at the end of phase I.",
        f"Over all 4096 patterns and both tanh units, mean ± sd over seeds: the share of outputs beyond "
        f"±{SATURATED:g}, and the factor 1 − y² with which a gradient passes the last tanh.",
    )


def _planes(results: MutualInformationResults) -> list[Block]:
    blocks: list[Block] = []
    for number, phases, what in (
        (2, ("A",), "after phase I"),
        (3, ("AA",), "continued training on task A"),
        (4, ("AB", "B"), "transfer to task B, and B from scratch"),
    ):
        models = [m for m in results.models if m.partition("_")[2] in phases]
        panels = [panel for m in models if (panel := results.panel(m)) is not None]
        if not panels:
            blocks.append(Only("page", Text(f"Figure {number} ({what}): not run.")))
            continue
        ends = "; ".join(f"{p.title} {p.information[-1, -1, 0]:.2f}" for p in panels)
        blocks.append(
            Figure(
                partial(figures.planes, panels),
                f"**Figure {number}**, {what}. Final I(X;L_6) in bits: {ends}.",
                f"Mutual-information planes of {', '.join(p.title for p in panels)}",
                name="" if results.restarts else f"figure-{number}",
            )
        )
    blocks.append(Only("page", _information_table(results)))
    std = results.panel("Std_A")
    if std is not None:
        blocks.append(
            Figure(
                partial(figures.planes, [std], label_layers=True),
                "**Figure 14**, Std_A with its layers named.",
                "Mutual-information plane of Std_A with layers L_1 to L_6 labelled",
            )
        )
    return blocks


def _information_table(results: MutualInformationResults) -> Table:
    rows: list[Sequence[object]] = []
    for model in results.models:
        if not results.accuracies(model):
            rows.append([model, *[None] * 6])
            continue
        cells = []
        for layer in range(6):
            s = summarise(results.information(model, layer))
            cells.append(Cell(f"{s.mean:.2f}", detail="" if s.n < 2 else f"± {s.sd:.2f}"))
        rows.append([model_cell(model), *cells])
    columns: list[str | Column] = ["model", *(Column(f"L_{m}", numeric=True) for m in range(1, 7))]
    return Table(columns, rows, "Final I(X;L) in bits, mean and standard deviation over seeds.", "At most 12 bits.")
