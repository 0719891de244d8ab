"""The study's figures: accuracy on A against the probe on B, probes by the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from racecar.study.coarse_to_fine.outcomes import FEW
from racecar.study.coarse_to_fine.results import NAMES, TransferResults
from racecar.study.core.variants import Variant
from racecar.study.report.models import color_of, math_title
from racecar.study.report.statistics import Summary

_MARKERS = "osD^vP*X<>hdp"


def _marker(results: TransferResults, variant: Variant) -> str:
    return _MARKERS[results.variants.index(variant) % len(_MARKERS)]


def ends(summary: Summary) -> tuple[float, float]:
    """How far the interval reaches below and above the mean; nowhere for one run."""
    return (0.0, 0.0) if summary.n < 2 else (summary.mean - summary.low, summary.high - summary.mean)


def finish(axis: Axes, lines: Literal["both", "x"] = "both") -> None:
    """A light grid, and no frame above and at the right."""
    axis.grid(axis=lines, color="#e4e4e4", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def curve(axis: Axes, results: TransferResults, variant: Variant, points: Sequence[tuple[float, Summary]]) -> None:
    """A method's means over the x axis with their 95 % intervals."""
    axis.errorbar(
        [x for x, _ in points],
        [s.mean for _, s in points],
        np.transpose([ends(s) for _, s in points]),
        linestyle=variant.method.line,
        color=color_of(variant.name),
        marker=_marker(results, variant),
        markersize=5,
        linewidth=1.2,
        capsize=2,
        label=math_title(variant.label),
    )


REACH = 0.06  # below the best accuracy on A: what is farther down is no use to anybody, and would squeeze the rest


def frontier(results: TransferResults) -> Figure:
    """Every method's tuning values joined by a line; the chosen one is filled. Right and up is better."""
    figure, axis = plt.subplots(figsize=(7.4, 4.6), layout="constrained")
    found = {v: points for v in results.ordered if (points := results.frontier(v))}
    for variant, points in found.items():
        method, color = variant.method, color_of(variant.name)
        x, y = [a.mean for _, a, _ in points], [p.mean for _, _, p in points]
        look = {"color": color, "marker": _marker(results, variant), "markersize": 6, "linewidth": 1.1}
        axis.plot(x, y, method.line, markerfacecolor="white", label=math_title(variant.label), **look)  # type: ignore[arg-type]
        chosen = results.config.tuned.get(variant.name) if method.strengths else 0.0
        for value, a, p in points:
            if value == chosen:
                axis.plot(a.mean, p.mean, markerfacecolor=color, zorder=3, **look)  # type: ignore[arg-type]
                above, beside = (np.reshape(ends(s), (2, 1)) for s in (p, a))
                axis.errorbar(a.mean, p.mean, above, beside, color=color, linewidth=0.8, capsize=2)
    everything = [(a.mean, p.mean) for points in found.values() for _, a, p in points]
    best = max(a for a, _ in everything)
    shown = [p for a, p in everything if a >= best - REACH]
    axis.set_xlim(max(min(a for a, _ in everything), best - REACH) - 0.002, best + 0.003)
    margin = 0.06 * (max(shown) - min(shown)) + 0.002
    axis.set_ylim(min(shown) - margin, max(shown) + margin)
    axis.set_xlabel("accuracy on A")
    axis.set_ylabel("linear probe on B, all labels")
    finish(axis)
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False)
    return figure


def few_labels(results: TransferResults) -> Figure:
    """Probes with 1, 5, 10, 50 and all labels a class, at the chosen values."""
    figure, axis = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    places = np.arange(len(FEW) + 1)
    for variant in results.judged:
        runs = results.tuned(variant)
        found = [results.summary(runs, f"probe{n}") for n in FEW] + [results.summary(runs, "probe")]
        curve(axis, results, variant, [(float(p), s) for p, s in zip(places, found, strict=True) if s.n])
    axis.set_xticks(places, [*map(str, FEW), "all"])
    axis.set_xlabel("labels per class of B")
    axis.set_ylabel("accuracy of a linear probe on B")
    finish(axis)
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False)
    return figure


def dots(results: TransferResults) -> Figure:
    """The primary outcomes by method: every seed a dot, the mean with its 95 % interval."""
    outcomes = [
        o
        for o in ("probe", "probe10", "cells", "finetuned")
        if any(results.numbers(results.tuned(v), o) for v in results.judged)
    ]
    height = 0.9 + 0.27 * len(results.judged)
    figure, axes = plt.subplots(
        1, len(outcomes), figsize=(2.5 * len(outcomes) + 0.9, height), sharey=True, squeeze=False, layout="constrained"
    )
    order = list(reversed(results.judged))
    for axis, outcome in zip(axes[0], outcomes, strict=True):
        for place, variant in enumerate(order):
            runs, color = results.tuned(variant), color_of(variant.name)
            values = results.numbers(runs, outcome)
            axis.scatter(values, np.full(len(values), place - 0.2), s=7, color=color, alpha=0.5, linewidths=0)
            summary = results.summary(runs, outcome)
            spread = np.reshape(ends(summary), (2, 1))
            axis.errorbar(summary.mean, place, xerr=spread, fmt="o", color=color, markersize=4.5, capsize=2.5)
        axis.set_title(NAMES[outcome], fontsize=9)
        finish(axis, "x")
        axis.tick_params(axis="x", labelsize=8)
    axes[0][0].set_yticks(range(len(order)), [math_title(v.label) for v in order], fontsize=9)
    return figure
