"""The report of the 12-bit study: Tables 1 and 2 beside the paper's, Figures 2, 3, 4 and 14, verdicts, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from racecar.study.core.folder import Study
from racecar.study.mutual_information import figures
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.results import MutualInformationResults
from racecar.study.report import Block, Cell, Column, Figure, Only, Page, Section, Table, Text, Verdicts
from racecar.study.report.figures import Bar, accuracies
from racecar.study.report.results import model_cell
from racecar.study.report.statistics import summarise

_PROTOCOL = {
    "paper": "published data in file order (first 3277 train, last 819 test), accuracy as the mean over batches of "
    "512 and 307.",
    "sound": "shuffled, stratified split per seed, accuracy per sample.",
}
_NOTE = (
    "95 % CI: Student's t over seeds. The paper reports five runs. On task B the labels, and so the constant answers, "
    "are exchanged."
)


def page(study: Study, config: MutualInformationConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = MutualInformationResults.load(study, config)
    provenance = results.provenance(_PROTOCOL[config.protocol], "networks", results.all_seeds)
    return Page(
        "12-bit study",
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
        summary_blocks=[Verdicts(results.verdicts())],
        command=provenance.command,
        setting=f"{config.protocol} protocol",
        provenance=provenance,
        name=f"{results.metadata['experiment']}-{config.protocol}",
    )


def _accuracy(results: MutualInformationResults) -> list[Block]:
    bars = [Bar(m, results.accuracies(m), results.paper.get(m, ())) for m in results.models]
    return [
        *results.accuracy_tables(
            "Test accuracy at the last epoch.", _NOTE, {"Constant answer": results.constant_records()}
        ),
        Figure(
            partial(accuracies, {"": bars}, results.best_constant()),
            "Bars: mean and standard deviation of this study, dots its runs; diamonds: the paper's; dashed: the best "
            "constant answer.",
            "Bar chart of test accuracy per model",
        ),
    ]


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
                name=f"figure-{number}",
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
