"""Figures 2, 3, 4 and 14: mutual-information planes, black (first epoch) to yellow (last), as the paper draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from racecar.study.report.models import math_title

# The paper's colours: black for the first epoch, yellow for the last. Not quite black, which is turned in the dark.
EPOCHS = LinearSegmentedColormap.from_list("epochs", ["#050008", "#5b1a4a", "#c1443c", "#f59a23", "#ffe94a"])


@dataclass(frozen=True)
class Panel:
    """One model's plane.

    Attributes:
        title: the model, e.g. ``"RR^6_A"``.
        epochs: [points].
        information: I(X;L) and I(L;Y) in bits, [points, 6 layers, 2].
        accuracy: of the last epoch.
    """

    title: str
    epochs: Sequence[int]
    information: np.ndarray
    accuracy: float


def planes(panels: Sequence[Panel], *, label_layers: bool = False) -> Figure:
    """A row of planes: x is I(X;L), y is I(L;Y); the final I(X;L_6) stands above each panel.

    Args:
        panels: up to five.
        label_layers: write L_1 to L_6 at the end points (Figure 14).
    """
    width = 3.1 if len(panels) > 1 else 4.6
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width * len(panels) + 0.9, width + 0.45), sharex=True, sharey=True, squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        epochs = np.asarray(panel.epochs, dtype=float)
        # Epochs are measured evenly on a logarithmic scale, and coloured so.
        shade = np.log1p(epochs) / max(np.log1p(epochs[-1]), 1e-9)
        for layer in range(panel.information.shape[1]):
            x, y = panel.information[:, layer, 0], panel.information[:, layer, 1]
            axis.plot(x, y, color="#999999", linewidth=0.5, alpha=0.6, zorder=1)
            axis.scatter(
                x, y, c=shade, cmap=EPOCHS, vmin=0, vmax=1, s=17, linewidths=0.25, edgecolors="#333333", zorder=2
            )
            axis.scatter(x[-1:], y[-1:], color="#ffe94a", s=48, linewidths=0.8, edgecolors="black", zorder=3)
            if label_layers:
                axis.annotate(
                    f"$L_{layer + 1}$", (x[-1], y[-1]), xytext=(6, -11), textcoords="offset points", fontsize=9
                )
        last = panel.information[-1, -1, 0]
        axis.set_title(
            f"{math_title(panel.title)}   accuracy {panel.accuracy:.3f}\n$I(X;L_6)$ = {last:.2f} bits", fontsize=10
        )
        axis.set_xlabel("$I(X;L)$ in bits")
        axis.grid(color="#dddddd", linewidth=0.5, zorder=0)
        axis.set_xlim(-0.4, 12.4)
        axis.set_ylim(-0.04, 1.04)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("$I(L;Y)$ in bits")
    figure.tight_layout(rect=(0, 0, 1 - 0.75 / figure.get_size_inches()[0], 1))
    last_epoch = max(int(p.epochs[-1]) for p in panels)
    box = axes[0][-1].get_position()
    bar = figure.add_axes(
        (box.x1 + 0.14 / figure.get_size_inches()[0], box.y0, 0.1 / figure.get_size_inches()[0], box.height)
    )
    scale = figure.colorbar(ScalarMappable(Normalize(0, 1), EPOCHS), cax=bar)
    marks = [e for e in (0, 10, 100, 1000) if e < 0.6 * last_epoch] + [last_epoch]
    scale.set_ticks([float(np.log1p(m) / np.log1p(last_epoch)) for m in marks], labels=[str(m) for m in marks])
    scale.set_label("epoch", fontsize=9)
    return figure
