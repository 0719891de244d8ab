"""The page of the 12-bit study: Tables 1 and 2 beside the paper's, Figures 2, 3, 4 and 14, verdicts, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from racecar.study.core.files import write_bytes, write_text
from racecar.study.core.folder import Study
from racecar.study.mutual_information import figures, paper
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.data import constant_predictor
from racecar.study.mutual_information.results import MutualInformationResults
from racecar.study.report import (
    Block,
    Cell,
    Column,
    Command,
    Figure,
    Group,
    KeyValues,
    Page,
    Section,
    Table,
    Text,
    Verdicts,
)
from racecar.study.report.figures import Bar, accuracies, png, svg
from racecar.study.report.markdown import markdown, verdict_lines
from racecar.study.report.results import model_cell, variant_of
from racecar.study.report.statistics import interval, spread, summarise


def page(study: Study, config: MutualInformationConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = MutualInformationResults.load(study, config)
    about = study.about()
    finished = len(results.metrics)
    subtitle = (
        f"The 12-bit task of Shwartz-Ziv & Tishby. Protocol **{config.protocol}**: {_PROTOCOL[config.protocol]} "
        f"{finished} networks trained in {about['seconds']:.0f} s."
    )
    return Page(
        f"Racecar training and mutual information ({config.protocol} protocol)",
        subtitle,
        [
            Section("Accuracy", _accuracy(results), lead="Tables 1 and 2 of the paper, run by run."),
            Section(
                "Mutual-information planes",
                _planes(results),
                lead="Every dot is a layer's output at one epoch, black at the first and yellow at the last, over "
                "all 4096 patterns, 30 bins on [−1, 1]. The panel shows the run with the median accuracy.",
            ),
            Section(
                "How it was run",
                [
                    Command(about["command"]),
                    KeyValues({**asdict(config)}, "Configuration", open=True),
                    KeyValues(about["environment"], "Environment"),
                ],
            ),
        ],
        summary_blocks=[Verdicts(results.verdicts())],
        command=about["command"],
    )


_PROTOCOL = {
    "paper": "published data in file order (first 3277 train, last 819 test), accuracy as the mean over batches of "
    "512 and 307.",
    "sound": "shuffled, stratified split per seed, accuracy per sample.",
}


def write_results(study: Study, config: MutualInformationConfig, folder: Path) -> list[Path]:
    """The numbers as Markdown and the planes as PNG, with the command, hardware and versions they come from."""
    results, about = MutualInformationResults.load(study, config), study.about()
    environment = about["environment"]
    stem = f"{about['experiment']}-{config.protocol}"
    rows = []
    for model in results.models:
        ours, theirs = results.summary(model), spread(results.paper_summary(model))
        if not ours.n:
            rows.append([model, "not run", "", "", theirs, ""])
            continue
        runs = " ".join(f"{v:.3f}" for v in results.accuracies(model))
        information = spread(summarise(results.information(model)))
        rows.append([model, spread(ours), interval(ours), runs, theirs, information])
    for answer in (0, 1):
        rows.append([f"always y = {answer}", f"{constant_predictor(config.protocol, answer):.4f}", "", "", "", ""])
    lines = [
        f"# 12-bit study, {config.protocol} protocol",
        "",
        f"`{about['command']}`",
        "",
        f"{_PROTOCOL[config.protocol]} {environment['processor']}, torch {environment['torch']}, Python "
        f"{environment['python']}, revision {environment['revision']}; {len(results.metrics)} networks in "
        f"{about['seconds']:.0f} s. n = {config.seeds} seeds (0 to {config.seeds - 1}).",
        "",
        *markdown(
            ["model", "mean ± sd", "95 % CI", "runs by seed", "paper, mean ± sd of 5", "final I(X;L_6), bits"], rows
        ),
        "",
        *verdict_lines(results.verdicts()),
    ]
    text = "\n".join(lines) + "\n"
    written = [folder / f"{stem}.md"]
    write_text(written[0], text)
    for number, _, panels in _figure_panels(results):
        if panels:
            path = folder / f"{stem}-figure-{number}.png"
            write_bytes(path, png(figures.planes(panels)))
            written.append(path)
    return written


def _figure_panels(results: MutualInformationResults) -> list[tuple[int, str, list[figures.Panel]]]:
    """Figures 2, 3 and 4: (number, words, panels)."""
    found = []
    for number, phase, words in (
        (2, "A", "after phase I"),
        (3, "AA", "continued training on task A"),
        (4, "AB", "transfer to task B, and B from scratch"),
    ):
        names = [m for m in results.models if m.endswith(f"_{phase}") or (phase == "AB" and m.endswith("_B"))]
        found.append((number, words, [p for m in names if (p := results.panel(m)) is not None]))
    return found


def _accuracy(results: MutualInformationResults) -> list[Block]:
    seeds = results.config.seeds
    rows = results.accuracy_rows(seeds)
    rows.append(Group("Constant answer"))
    for answer in (0, 1):
        value = constant_predictor(results.config.protocol, answer)
        rows.append([f"always y = {answer}", f"{value:.4f}", *[Cell("") for _ in range(seeds + 2)]])
    note = (
        "95 % CI: Student's t over seeds. The paper reports five runs. On task B the labels, and so the constant "
        "answers, are exchanged."
    )
    bars = [Bar(m, variant_of(m).family, results.accuracies(m), paper.ACCURACY.get(m, ())) for m in results.models]
    caption = (
        "Bars: mean and standard deviation of this study, dots its runs; diamonds: the paper's; dashed: the best "
        "constant answer."
    )
    return [
        Table(results.accuracy_columns(seeds), rows, "Test accuracy at the last epoch.", note),
        Figure(
            svg(accuracies({"": bars}, results.best_constant())),
            caption,
            "Bar chart of test accuracy per model",
        ),
    ]


def _planes(results: MutualInformationResults) -> list[Block]:
    blocks: list[Block] = []
    for number, words, panels in _figure_panels(results):
        if not panels:
            blocks.append(Text(f"Figure {number} ({words}): not run."))
            continue
        ends = "; ".join(f"{p.title} {p.information[-1, -1, 0]:.2f}" for p in panels)
        blocks.append(
            Figure(
                svg(figures.planes(panels)),
                f"**Figure {number}**, {words}. Final I(X;L_6) in bits: {ends}.",
                f"Mutual-information planes of {', '.join(p.title for p in panels)}",
            )
        )
    blocks.append(_information_table(results))
    std = results.panel("Std_A")
    if std is not None:
        blocks.append(
            Figure(
                svg(figures.planes([std], label_layers=True)),
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
