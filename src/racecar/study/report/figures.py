"""Drawing that every study shares: accuracies in rows, and a figure as SVG, PNG or JPEG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from racecar.study.report.models import PAPER, color_of, math_title
from racecar.study.report.statistics import clipped, summarise

PRINT = 300  # dots per inch


@dataclass(frozen=True)
class Measured:
    """One model's accuracy.

    Attributes:
        model: e.g. ``"RR^6_A"``.
        ours: this study's runs; none: an empty place that says "not run".
        theirs: the paper's runs.
    """

    model: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()


def accuracies(groups: Mapping[str, Sequence[Measured]], constant: float | None = None) -> Figure:
    """A panel per group, a row per model: the mean with its 95 % interval, every run a dot, the paper's a diamond.

    Args:
        groups: panels by title.
        constant: accuracy of the best constant answer: a dashed line.
    """
    figure, axes = panels({title: len(models) for title, models in groups.items()})
    for axis, (title, models) in zip(axes, groups.items(), strict=True):
        rows(axis, [m.model for m in models])
        for place, measured in enumerate(models):
            color = color_of(measured.model)
            axis.scatter(measured.ours, [place + 0.27] * len(measured.ours), s=9, color=color, alpha=0.55, linewidths=0)
            for values, at, look in (
                (measured.theirs, place - 0.22, (PAPER, "D", 3.6)),
                (measured.ours, place, (color, "o", 5)),
            ):
                if values:
                    _interval(axis, values, at, *look)
            if not measured.ours:
                not_run(axis, place)
        if constant is not None:
            axis.axvline(constant, color="#666666", linestyle="--", linewidth=1, zorder=1)
        axis.set_title(title, fontsize=9.5)
        axis.set_xlabel("test accuracy", fontsize=9)
    handles = []
    if any(m.theirs for models in groups.values() for m in models):
        handles = [Line2D([], [], marker="D", linestyle="", markersize=4, color=PAPER, label="paper")]
    if constant is not None:
        label = f"best constant answer, {constant:.3f}"
        handles.append(Line2D([], [], color="#666666", linestyle="--", linewidth=1, label=label))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _interval(axis: Axes, values: Sequence[float], place: float, color: str, marker: str, size: float) -> None:
    found = clipped(summarise(values))
    reach = [[found.mean - found.low], [found.high - found.mean]] if found.n > 1 else None
    axis.errorbar(
        found.mean, place, xerr=reach, fmt=marker, color=color, markersize=size, elinewidth=1.2, capsize=2.5, zorder=3
    )


def panels(counts: Mapping[str, int], beside: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title.

    Args:
        counts: rows of each panel.
        beside: how many panels stand beside each other.
    """
    lines = [list(counts)[i : i + beside] for i in range(0, len(counts), beside)]
    tallest = [max(counts[title] for title in line) for line in lines]
    columns = len(lines[0])
    figure = plt.figure(
        figsize=(max(4.8, 3.3 * columns), 0.25 + sum(0.95 + 0.27 * n for n in tallest)), layout="constrained"
    )
    grid = figure.add_gridspec(len(lines), columns, height_ratios=[0.8 + 0.27 * n for n in tallest])
    return figure, [figure.add_subplot(grid[i, j]) for i, line in enumerate(lines) for j in range(len(line))]


def rows(axis: Axes, models: Sequence[str]) -> None:
    """A row for each model, the first above, with its name at the left."""
    axis.set_yticks(range(len(models)), [math_title(m) for m in models], fontsize=9)
    axis.set_ylim(len(models) - 0.45, -0.55)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def not_run(axis: Axes, place: float) -> None:
    """Say so in a row."""
    axis.text(0.02, place, "not run", va="center", fontsize=8, color="#777777", transform=axis.get_yaxis_transform())


def svg(figure: Figure) -> str:
    """A figure as an SVG document, which scales to any width; closes the figure."""
    buffer = io.StringIO()
    # A fixed salt and no date: the same data gives the same file.
    with plt.rc_context({"svg.hashsalt": "racecar"}):
        # Transparent: the page's card is the paper, which is dark where the reader's screen is.
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    return buffer.getvalue()


def vector(figure: Figure, kind: Literal["pdf", "svg"]) -> bytes:
    """A figure for print: lines and words as curves, pictures at 300 dots per inch; closes the figure."""
    buffer = io.BytesIO()
    # Type 42 keeps words as words; no date: the same data gives the same file.
    with plt.rc_context({"svg.hashsalt": "racecar", "pdf.fonttype": 42}):
        date = "CreationDate" if kind == "pdf" else "Date"
        figure.savefig(buffer, format=kind, dpi=PRINT, metadata={date: None})
    plt.close(figure)
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG in 256 colours, a thirtieth of the SVG's size; closes the figure."""
    return _saved(_pixels(figure, dpi).quantize(256, dither=Image.Dither.NONE), "png")


def jpeg(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as JPEG, for one that is photographs for the most part; closes the figure."""
    return _saved(_pixels(figure, dpi), "jpeg", quality=88)


def _pixels(figure: Figure, dpi: int) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    with Image.open(buffer) as picture:
        return picture.convert("RGB")


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return buffer.getvalue()
