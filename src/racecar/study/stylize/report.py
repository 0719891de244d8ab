"""The page of the stylization study, and the same for a repository: contact sheets of Figures 10 to 13, numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes, write_text
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run
from racecar.study.report import Block, Column, Command, Figure, KeyValues, Page, Section, Table, Text, Verdicts
from racecar.study.report.claims import CONTROL
from racecar.study.report.figures import jpeg, math_title, svg
from racecar.study.report.markdown import file_stem, markdown, portable, verdict_lines
from racecar.study.stylize import experiment
from racecar.study.stylize.comparisons import COMPARISONS, pairs
from racecar.study.stylize.experiment import StylizeConfig
from racecar.study.stylize.pictures import read_picture
from racecar.study.stylize.results import StylizeResults, pictures_of

TITLE = "Stylization: what VGG's features see"
_CAPTIONS = {
    "shapes": "**Figure 11**: two shapes in the same colours, L_style alone, from the content picture.",
    "building": "**Figure 10, left**: buildings in the style of a Van Gogh.",
    "horse": "**Figures 10, right, and 13**: a horse in the style of zebras.",
    "detail": "**Figure 12**: the right half of a photograph in low resolution, in the style of its left half.",
}
_NOTE = (
    "Mean ± standard deviation over seeds, each the mean over the comparison's pictures. IoU: of the pixels nearer to "
    "the object's colour than to the background's. Energy outside the outline: mean squared distance from the "
    "background's colour over the object's distance from it. L_style left: its value at the end over that at the "
    "start. Turned green: pixels of the body whose green exceeds red and blue. By the judge: squared distance of "
    "normalised features (LPIPS without learnt weights); from the style, Σ E_t of Eq. 4 in its layers."
)


def page(study: Study, config: StylizeConfig) -> Page:
    """Build the report from what is finished; missing runs say so."""
    results = StylizeResults.load(study, config)
    about = results.about
    setting = f" ({about['setting']})" if about.get("setting") else ""
    sheets: list[Block] = []
    for comparison, figure in _sheets(study, results).items():
        sheets.append(Figure(svg(figure), _CAPTIONS[comparison], f"Contact sheet: {comparison}"))
    columns = [Column(t, numeric=i > 1) for i, t in enumerate(_header(results))]
    return Page(
        f"{TITLE}{setting}",
        f"{results.sources} {len(results.metrics)} runs in {about['seconds']:.0f} s.",
        [
            Section("Pictures", sheets or [Text("No run is finished.")]),
            Section("Numbers", [Table(columns, results.rows(), "What the pictures show, in numbers.", _note(results))]),
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
            Text(
                f"Where it says **{CONTROL}**, the claim is this study's question; **reproduced** means that it holds. "
                "Every interval is for one comparison, without a correction for their number."
            ),
        ],
        command=about["command"],
    )


def write_results(study: Study, config: StylizeConfig, folder: Path) -> list[Path]:
    """The numbers as Markdown and the contact sheets as JPEG, with command, hardware and versions."""
    results = StylizeResults.load(study, config)
    about = results.about
    environment, setting = about["environment"], str(about.get("setting", ""))
    accelerator = environment.get("accelerator", "none")
    hardware = environment["processor"] + (f", {accelerator}" if accelerator != "none" else "")
    stem = file_stem(experiment.NAME, setting)
    lines = [
        f"# {TITLE}{f', {setting}' if setting else ''}",
        "",
        f"`{portable(about['command'])}`",
        "",
        f"{results.sources} {hardware}, torch {environment['torch']}, Python {environment['python']}, revision "
        f"{', '.join(about.get('revisions') or [environment['revision']])}; {len(results.metrics)} runs in "
        f"{about['seconds']:.0f} s. n = {config.seeds} seeds (0 to {config.seeds - 1}).",
        "",
        "## Verdicts",
        "",
        *verdict_lines(results.verdicts()),
        "",
        f'Where it says "{CONTROL}", reproduced means that the statement holds here. Every interval is for one '
        "comparison, without a correction for their number.",
        "",
        "## Numbers",
        "",
        *markdown(_header(results), results.rows()),
        "",
        _note(results),
        "",
        "## Not run",
        "",
        *(f"- {m}" for m in results.not_run()),
        "",
        "## Pictures",
        "",
    ]
    written = [folder / f"{stem}.md"]
    for comparison, figure in _sheets(study, results).items():
        path = folder / f"{stem}-{comparison}.jpg"
        write_bytes(path, jpeg(figure, 100))
        written.append(path)
        lines += [_CAPTIONS[comparison], "", f"![{comparison}]({path.name})", ""]
    write_text(written[0], "\n".join(lines).rstrip() + "\n")
    return written


def _header(results: StylizeResults) -> list[str]:
    rr = results.headline.label
    return ["comparison", "number", *(v.label for v in results.variants), f"{rr} against Std, 95 % CI"]


def _note(results: StylizeResults) -> str:
    judge = f" Judge: {results.about['judge']}." if results.about.get("judge") else ""
    return f"{_NOTE}{judge} {results.sources}"


def _sheets(study: Study, results: StylizeResults) -> dict[str, MatplotlibFigure]:
    """A contact sheet per comparison that has runs."""
    found = {}
    for comparison in COMPARISONS:
        if runs := pictures_of(results, comparison):
            try:
                found[comparison] = _sheet(study, results, comparison, runs)
            except StudyError:  # the pictures are gone: numbers are still there
                continue
    return found


def _sheet(study: Study, results: StylizeResults, comparison: str, runs: Sequence[Run]) -> MatplotlibFigure:
    config, about = results.config, results.about
    folder = Path(about["pictures"]) if about.get("pictures") else None
    lines: list[list[tuple[str, Tensor]]] = []
    for pair in pairs(comparison, folder, config.size, config.factor):
        line = [("content", pair.content), ("style", pair.style)]
        if pair.reference is not None:
            line = [("low resolution", pair.content), ("style", pair.style), ("reference", pair.reference)]
        for run in runs:
            title = f"{math_title(run.variant.label + '_A')}, seed {run.seed}"
            line.append((title, read_picture(study.path(run) / f"{pair.name}.png")))
        lines.append(line)
    return contact_sheet(lines)


def contact_sheet(lines: Sequence[Sequence[tuple[str, Tensor]]], width: float = 1.5) -> MatplotlibFigure:
    """Rows of titled pictures.

    Args:
        lines: titles and pictures [1, 3, h, w] between 0 and 1; as many in every row.
        width: of a picture, in inches.
    """
    heights = [max(p.shape[2] / p.shape[3] for _, p in line) for line in lines]
    figure, axes = plt.subplots(
        len(lines),
        len(lines[0]),
        figsize=(width * len(lines[0]), width * sum(heights) + 0.25 * len(lines)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for row, line in zip(axes, lines, strict=True):
        for axis, (title, picture) in zip(row, line, strict=True):
            axis.imshow(picture[0].clamp(0, 1).permute(1, 2, 0).numpy())
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    return figure
