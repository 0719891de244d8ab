"""The report of the stylization study: contact sheets of Figures 10 to 13, what they show in numbers, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as MatplotlibFigure
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.report import Column, Figure, Only, Page, Remarks, Section, Table, Text, Verdicts
from racecar.study.report.claims import CONTROLS_NOTE, UNCORRECTED_NOTE
from racecar.study.report.markdown import file_stem
from racecar.study.report.models import math_title
from racecar.study.stylize import experiment
from racecar.study.stylize.comparisons import COMPARISONS, pairs
from racecar.study.stylize.experiment import StylizeConfig
from racecar.study.stylize.pictures import read_picture
from racecar.study.stylize.results import StylizeResults

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
    provenance = results.provenance(results.sources, "runs", results.all_seeds)
    sheets = _sheets(study, results)
    no_more = "No more than what stands above." if sheets else "No run is finished."
    return Page(
        "Stylization: what VGG's features see",
        f"{results.sources} {provenance.amount} in {results.metadata['seconds']:.0f} s.",
        [
            Section("Pictures", sheets[1:] or [Only("page", Text(no_more))]),
            Section("Numbers", [_numbers(results)]),
            Section("Not run", [Remarks(results.not_run())]),
        ],
        summary_blocks=[
            Verdicts(results.verdicts(), folded=results.is_smoke_test),
            Text(f"{CONTROLS_NOTE} {UNCORRECTED_NOTE}"),
        ],
        command=provenance.command,
        setting=results.setting,
        provenance=provenance,
        name=file_stem(experiment.NAME, results.setting),
        answer=results.answer,
        figure=sheets[0] if sheets else None,
        smoke_test=results.is_smoke_test,
    )


def _numbers(results: StylizeResults) -> Table:
    titles = ["comparison", "number", *(v.label for v in results.variants), f"{results.headline} against Std, 95 % CI"]
    columns = [Column(title, numeric=i > 1) for i, title in enumerate(titles)]
    judge = f" Judge: {results.metadata['judge']}." if results.metadata.get("judge") else ""
    note = f"{_NOTE}{judge}"
    return Table(columns, results.rows(), "What the pictures show, in numbers.", note)


def _sheets(study: Study, results: StylizeResults) -> list[Figure]:
    """A contact sheet per comparison that has runs."""
    sheets: list[Figure] = []
    for comparison in COMPARISONS:
        try:
            lines = _lines(study, results, comparison)
        except StudyError:  # the pictures are gone: numbers are still there
            continue
        if lines:
            draw = partial(contact_sheet, lines)
            label = f"Contact sheet: {comparison}"
            sheets.append(Figure(draw, _CAPTIONS[comparison], label, comparison, dpi=300, format="jpeg"))
    return sheets


def _lines(study: Study, results: StylizeResults, comparison: str) -> list[list[tuple[str, Tensor]]]:
    """Titled pictures of a comparison, a line for each of its contents; none where no run is finished."""
    runs, config, metadata = results.runs_of(comparison), results.config, results.metadata
    if not runs:
        return []
    folder = Path(metadata["pictures"]) if metadata.get("pictures") else None
    lines: list[list[tuple[str, Tensor]]] = []
    for pair in pairs(comparison, folder, config.size, config.factor):
        line = [("content", pair.content), ("style", pair.style)]
        if pair.reference is not None:
            line = [("low resolution", pair.content), ("style", pair.style), ("reference", pair.reference)]
        for run in runs:
            title = f"{math_title(run.variant.label + '_A')}, seed {run.seed}"
            line.append((title, read_picture(study.path(run) / f"{pair.name}.png")))
        lines.append(line)
    return lines


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
