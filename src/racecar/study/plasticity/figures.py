"""Curves over the tasks of a chain, one colour per method, a band for the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from racecar.study.core.methods import Method
from racecar.study.report.models import color_of, math_title


@dataclass(frozen=True)
class Curve:
    """What was measured of one method.

    Attributes:
        label: as :func:`racecar.study.report.models.math_title` reads it.
        method: gives its colour and line.
        faint: whether it is a variation, drawn thin and without a band.
        values: by quantity, [seeds, tasks].
    """

    label: str
    method: Method
    faint: bool
    values: Sequence[NDArray[np.float64]]


def by_task(curves: Sequence[Curve], titles: Sequence[str], chance: float | None = None) -> Figure:
    """A panel per quantity: the mean over seeds, and the 95 % interval of the mean as a band.

    Args:
        curves: with as many quantities as there are titles.
        titles: of the panels.
        chance: accuracy of a constant answer, a dashed line in the first panel.
    """
    figure, axes = plt.subplots(
        1, len(titles), figsize=(5.0 * len(titles) + 1.4, 3.9), layout="constrained", squeeze=False
    )
    for panel, (axis, title) in enumerate(zip(axes[0], titles, strict=True)):
        for curve in curves:
            values = curve.values[panel]
            there = np.isfinite(values).sum(0)
            tasks, values = np.arange(1, values.shape[1] + 1)[there > 0], values[:, there > 0]
            mean = np.nanmean(values, 0)
            label = math_title(curve.label.partition(",")[0]) + (", first tenth" if curve.faint else "")
            style = ":" if curve.faint else curve.method.line
            color = color_of(curve.method.name)
            width = 1.1 if curve.faint else 1.7
            axis.plot(tasks, mean, style, color=color, linewidth=width, label=label)
            if len(values) > 1 and not curve.faint and (several := there[there > 0] > 1).any():
                n = there[there > 0][several]
                half = stats.t.ppf(0.975, n - 1) * np.nanstd(values[:, several], 0, ddof=1) / n**0.5
                # Accuracies and shares end at 1, nothing here is below 0.
                highest = 1.0 if title.startswith(("accuracy", "share")) else np.inf
                axis.fill_between(
                    tasks[several],
                    np.clip(mean[several] - half, 0, highest),
                    np.clip(mean[several] + half, 0, highest),
                    color=color,
                    alpha=0.15,
                    linewidth=0,
                )
        if chance is not None and panel == 0:
            axis.axhline(chance, color="#666666", linestyle="--", linewidth=0.8, zorder=0)
        axis.set_xlabel("task")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(title, fontsize=10)
        axis.grid(color="#e2e2e2", linewidth=0.5)
        axis.set_xlim(1, None)
        axis.set_ylim(0, None)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, frameon=False)
    return figure
