"""Figures of a training on somebody's images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from racecar.study.classification.evaluation import Point


def curves(history: Sequence[Point]) -> Figure:
    """Cross entropy and penalty, and accuracies while training and on the validation images, by epoch."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [p.epoch for p in history]
    left.plot(epochs, [p.loss for p in history], color="#2b62d9", label="cross entropy")
    if any(p.penalty for p in history):
        left.plot(epochs, [p.penalty for p in history], color="#d14f25", linestyle="--", label="penalty, λ included")
    left.set_ylim(bottom=0)
    trained = [(p.epoch, p.train_accuracy) for p in history if p.train_accuracy is not None]
    right.plot([e for e, _ in trained], [a for _, a in trained], color="#888888", label="training, as weights change")
    measured = [(p.epoch, p.accuracy) for p in history if p.accuracy is not None]
    right.plot([e for e, _ in measured], [a for _, a in measured], color="#2b62d9", marker=".", label="validation")
    right.set_ylim(0, 1)
    for axis, name in ((left, "loss, mean over the epoch"), (right, "accuracy")):
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
