"""Drawing that every study shares: bars of accuracy, and a figure as SVG, PNG or JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from racecar.study.report.models import PAPER, color_of, math_title

_PER_ROW = 22  # bars


@dataclass(frozen=True)
class Bar:
    """One model's accuracy.

    Attributes:
        model: e.g. ``"RR^6_A"``.
        ours: this study's runs; none: an empty place that says "not run".
        theirs: the paper's runs.
    """

    model: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()


def accuracies(groups: Mapping[str, Sequence[Bar]], constant: float | None = None) -> Figure:
    """Accuracy as bars, one panel per group: mean and standard deviation, every run a dot, the paper's a diamond.

    Where all accuracies of a panel are high its axis does not start at 0, and says so.

    Args:
        groups: panels by title.
        constant: the better constant predictor: a dashed line, and axes that start at 0.
    """
    rows: list[list[str]] = [[]]
    for title, bars in groups.items():
        if rows[-1] and sum(len(groups[t]) for t in rows[-1]) + len(bars) > _PER_ROW:
            rows.append([])
        rows[-1].append(title)
    width = max(sum(0.55 * max(len(groups[t]), 2) + 1.0 for t in row) for row in rows)
    figure = plt.figure(figsize=(max(4.5, width), 3.3 * len(rows)), layout="constrained")
    for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        ratios = [max(len(groups[t]), 2) + 1.4 for t in row]
        # A short last row keeps the width of its bars.
        spare = sum(max(len(groups[t]), 2) + 1.4 for t in max(rows, key=lambda r: sum(len(groups[t]) for t in r)))
        rest = [spare - sum(ratios)] if spare - sum(ratios) > 1 else []
        axes = part.subplots(1, len(row) + len(rest), width_ratios=ratios + rest, squeeze=False)[0]
        for axis in axes[len(row) :]:
            axis.set_axis_off()
        for axis, title in zip(axes, row, strict=False):
            _bars(axis, groups[title], constant)
            axis.set_title(title, fontsize=9.5)
    handles = []
    if any(len(b.theirs) for bars in groups.values() for b in bars):
        handles = [Line2D([], [], marker="D", linestyle="", color=PAPER, label="paper, mean ± sd")]
    if constant is not None:
        label = f"best constant answer, {constant:.3f}"
        handles.append(Line2D([], [], color="#666666", linestyle="--", linewidth=1, label=label))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _bars(axis: Axes, bars: Sequence[Bar], constant: float | None) -> None:
    bottom = 0.0 if constant is not None else lowest([*(v for b in bars for v in (*b.ours, *b.theirs))])
    for i, bar in enumerate(bars):
        if len(bar.ours):
            mean, sd = float(np.mean(bar.ours)), float(np.std(bar.ours, ddof=1)) if len(bar.ours) > 1 else 0.0
            axis.bar(i, mean, 0.62, color=color_of(bar.model), yerr=sd, capsize=3, ecolor="#444444", zorder=2)
            offsets = np.linspace(-0.18, 0.18, len(bar.ours)) if len(bar.ours) > 1 else np.zeros(1)
            axis.scatter(i + offsets, bar.ours, s=12, color="white", edgecolors="black", linewidths=0.7, zorder=3)
        else:
            place = axis.get_xaxis_transform()
            axis.text(i, 0.04, "not run", rotation=90, ha="center", fontsize=8, color="#777777", transform=place)
        if len(bar.theirs):
            sd = float(np.std(bar.theirs, ddof=1)) if len(bar.theirs) > 1 else 0.0
            style = {"fmt": "D", "markersize": 4.5, "color": PAPER, "elinewidth": 1, "zorder": 4}
            axis.errorbar([i + 0.4], [float(np.mean(bar.theirs))], [sd], **style)  # type: ignore[arg-type]
    if constant is not None:
        axis.axhline(constant, color="#666666", linestyle="--", linewidth=1, zorder=1)
    axis.set_xticks(range(len(bars)), [math_title(b.model).replace("$ ", "$\n") for b in bars], fontsize=9.5)
    axis.set_xlim(-0.6, max(len(bars), 2) - 0.4)
    top = max([1.0 if bottom == 0 and constant is not None else 0.0, *(v for b in bars for v in (*b.ours, *b.theirs))])
    axis.set_ylim(bottom, min(bottom + (top - bottom) * 1.12, max(1.0, top) + 0.03 * (1 - bottom)) or 1.0)
    axis.set_ylabel("test accuracy" + (f" (axis starts at {bottom:g}, not 0)" if bottom else ""), fontsize=9)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def lowest(values: Sequence[float]) -> float:
    """Where an axis may start that shows these accuracies: 0, or below them all if they lie close and high."""
    if not values or min(values) < 0.5 or max(values) - min(values) > 0.4:
        return 0.0
    span = max(max(values) - min(values), 0.01)
    step = 10.0 ** math.floor(math.log10(span)) / 2
    return max(0.0, round(math.floor((min(values) - 0.35 * span) / step) * step, 6))


def svg(figure: Figure) -> str:
    """A figure as an SVG document, which scales to any width; closes the figure."""
    buffer = io.StringIO()
    # A fixed salt and no date: the same data gives the same file.
    with plt.rc_context({"svg.hashsalt": "racecar"}):
        # Transparent: the page's card is the paper, which is dark where the reader's screen is.
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
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
