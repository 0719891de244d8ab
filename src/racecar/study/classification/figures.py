"""Figures 5, 16 and 17: regenerated inputs, test accuracy against epochs and against seconds of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from racecar.study.classification.results import Curve
from racecar.study.report.models import SCRATCH, color_of, math_title, variant_of

_STYLES = ("-", "--", ":", "-.")


def curves(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """Accuracy per phase: against epochs above, against seconds below; a thin line per seed, a thick one their mean.

    Args:
        panels: by title, the runs of every model.
    """
    figure, axes = plt.subplots(2, len(panels), figsize=(3.9 * len(panels), 6.6), squeeze=False, layout="constrained")
    styles: dict[str, tuple[str, str]] = {}  # of every variant, the same in all panels
    for variant in dict.fromkeys(variant_of(m) for models in panels.values() for m in models):
        color = color_of(variant.name)
        styles[variant.label] = color, _STYLES[sum(c == color for c, _ in styles.values()) % len(_STYLES)]
    legend: dict[str, Line2D] = {}
    for column, (title, models) in zip(axes.T, panels.items(), strict=True):
        for model, runs in models.items():
            name = model.partition("_")[0]
            color, style = (SCRATCH, "-") if model.endswith("_B") else styles[name]
            for run in runs:
                for axis, x in zip(column, (run.epochs, run.seconds), strict=True):
                    axis.plot(x, run.accuracy, color=color, linewidth=0.6, alpha=0.4)
            common = sorted(set.intersection(*(set(r.epochs) for r in runs))) if runs else []
            if not common:
                continue
            chosen = [[r.epochs.index(e) for e in common] for r in runs]
            accuracy = np.mean([[r.accuracy[i] for i in c] for r, c in zip(runs, chosen, strict=True)], axis=0)
            seconds = np.mean([[r.seconds[i] for i in c] for r, c in zip(runs, chosen, strict=True)], axis=0)
            look = {"marker": "o" if len(common) < 15 else "", "markersize": 3, "color": color, "linewidth": 2}
            for axis, x in zip(column, (np.asarray(common), seconds), strict=True):
                (line,) = axis.plot(x, accuracy, style, **look)
                legend[math_title(name) + (" from scratch" if color == SCRATCH else "")] = line
        column[0].set_title(title, fontsize=10)
        column[0].set_xlabel("epoch of the phase")
        column[1].set_xlabel("seconds of training in the phase")
        column[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        column[1].set_xlim(left=0)
        for axis in column:
            axis.set_ylabel("test accuracy")
            axis.grid(color="#e4e4e4", linewidth=0.5)
            axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        legend.values(), legend.keys(), loc="outside upper center", ncols=len(legend) or 1, fontsize=9, frameon=False
    )
    return figure


def grid(rows: Mapping[str, Tensor], reference: Tensor) -> Figure:
    """A row of images per model, clipped to between 0 and 1, the reference last.

    Args:
        rows: [n, C, H, W] by model.
        reference: the images themselves.
    """
    drawn = {**{math_title(m): t for m, t in rows.items()}, "reference": reference}
    figure, axes = plt.subplots(
        len(drawn), len(reference), figsize=(0.74 * len(reference) + 0.8, 0.76 * len(drawn) + 0.1), squeeze=False
    )
    for line, (title, pictures) in zip(axes, drawn.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            image = picture.clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#bbbbbb")
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(
        left=0.8 / figure.get_size_inches()[0], right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.06
    )
    return figure
