"""Figures of a trained classifier: confusion and reliability, regenerated pictures layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from racecar.analysis import Calibration
from racecar.study.report.svg import AS_DRAWN

if TYPE_CHECKING:
    from racecar.study.use.evaluating import Evaluation
    from racecar.study.use.regenerating import Regenerated

_NAMED = 25  # classes beyond which the matrix has no names
_NUMBERED = 12
_ROWS = 16  # pictures
_LAYERS = 4


def evaluation(found: Evaluation) -> Figure:
    """The confusion matrix, rows as shares of their class, and accuracy by confidence."""
    count = len(found.classes)
    side = min(9.0, max(3.6, 0.35 * count + 1.8)) if count <= _NAMED else 7.0
    figure = Figure(figsize=(side + 4.2, side), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[side, 4])
    confusion = found.confusion.double().numpy()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    left.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    left.set(xlabel="answer", ylabel="class", title=f"{len(found.labels)} images, rows as shares of their class")
    left.title.set_fontsize(9)
    if count <= _NAMED:
        names = [_short(n) for n in found.classes]
        left.set_xticks(range(count), names, rotation=90, fontsize=7)
        left.set_yticks(range(count), names, fontsize=7)
    if count <= _NUMBERED:
        for (row, column), number in np.ndenumerate(confusion):
            if number:
                colour = "white" if shares[row, column] > 0.5 else "black"
                left.text(
                    column, row, f"{number:.0f}", ha="center", va="center", fontsize=7, color=colour, gid=AS_DRAWN
                )
    reliability(right, found.calibration)
    return figure


def reliability(axis: Axes, found: Calibration) -> None:
    """Accuracy over confidence, in bins, with the number of answers in each."""
    bins = len(found.counts)
    centres = (np.arange(bins) + 0.5) / bins
    axis.bar(centres, np.nan_to_num(found.accuracy), 0.9 / bins, color="#4c9f70", label="accuracy")
    axis.plot([0, 1], [0, 1], color="#666666", linestyle="--", linewidth=1, label="as sure as right")
    most = max(found.counts) or 1
    axis.bar(centres, [-0.12 * n / most for n in found.counts], 0.9 / bins, color="#bbbbbb", label="answers")
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xlim=(0, 1), ylim=(-0.14, 1), xlabel="confidence", ylabel="accuracy")
    axis.set_title(f"expected calibration error {found.error:.3f}", fontsize=9)
    axis.set_aspect("equal")
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)


def _short(name: str, most: int = 20) -> str:
    # A dollar would begin mathematics.
    line = " ".join(name.split()).replace("$", r"\$")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def regenerated(found: Regenerated) -> Figure:
    """A row per picture: itself, its regeneration, then L_m and L'_m of at most four more layers.

    Maps of many channels are shown by their first three principal components, found on L_m of all pictures and the same
    for L'_m, as red, green and blue.
    """
    count = min(len(found.names), _ROWS)
    layers = [name for name in found.layers[1:] if found.pairs[name][0].ndim == 4]
    chosen = [layers[i] for i in np.linspace(0, len(layers) - 1, min(len(layers), _LAYERS)).round().astype(int)]
    figure = Figure(figsize=(1.5 * (2 + 2 * len(chosen)), 1.5 * count + 0.5), layout="constrained")
    axes = figure.subplots(count, 2 + 2 * len(chosen), squeeze=False)
    columns = [("picture", found.pictures()[0]), ("regenerated", found.pictures()[1])]
    for name in chosen:
        forward, back = _colours(*found.pairs[name])
        columns += [(f"L, {_short(name, 16)}", forward), ("L′", back)]
    for place, (title, maps) in enumerate(columns):
        axes[0, place].set_title(title, fontsize=7)
        for row in range(count):
            axis, shown = axes[row, place], maps[row].clamp(0, 1).nan_to_num(0.5).permute(1, 2, 0).numpy()
            axis.imshow(shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 1:
                axis.set_xlabel(f"error {float(found.errors[row, 0]):.3g}", fontsize=7)
    return figure


def _colours(forward: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [N, C, H, W] as [N, 3, H, W] between 0 and 1."""
    rows = forward.permute(0, 2, 3, 1).reshape(-1, forward.shape[1]).double().nan_to_num()
    mean = rows.mean(0)
    axes = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:3].T
    axes = torch.nn.functional.pad(axes, (0, 3 - axes.shape[1]))
    spread = ((rows - mean) @ axes).std(0).clamp(min=1e-12)

    def shown(maps: Tensor) -> Tensor:
        turned = (maps.permute(0, 2, 3, 1).double() - mean) @ axes / spread
        return (0.5 + turned / 5).permute(0, 3, 1, 2).float()

    return shown(forward), shown(back)
