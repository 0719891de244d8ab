"""Figures 8, 9 and 18 to 21, the training curves of phase I, and strips of the pictures themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from racecar.study.report.figures import not_run, panels, rows
from racecar.study.report.models import color_of, math_title, variant_of
from racecar.study.report.svg import AS_DRAWN
from racecar.study.smoke import paper
from racecar.study.smoke.results import SmokeResults

_COLLAPSED = "#d14f25"
_PANELS = {
    "B1": ("AB1", "B1"),
    "B2": ("AB2", "B2"),
    "B1, leaky last ReLU": ("AB1-leaky", "B1-leaky"),
    "B2, leaky last ReLU": ("AB2-leaky", "B2-leaky"),
}


def strips(rows: Mapping[str, Tensor], count: int = 10) -> Figure:
    """Pictures of every set, evenly spaced.

    Args:
        rows: [n, C, h, w] by title.
        count: per row.
    """
    figure, axes = plt.subplots(
        len(rows), count, figsize=(count, 0.25 + 1.25 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (title, pictures) in zip(axes, rows.items(), strict=True):
        at = np.linspace(0, len(pictures) - 1, count).round().astype(int)
        for axis, number in zip(line, at, strict=True):
            _show(axis, pictures[int(number)])
        line[0].set_title(title, fontsize=9, loc="left")
    return figure


def figure_8(reference: Tensor, shown: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Regenerated low resolution above, super-resolution below, a line per model, the reference last.

    Args:
        reference: [n, 1, h, w].
        shown: per model, (low resolution, output, regenerated low resolution).
    """
    low = next(iter(shown.values()))[0]
    lines = [
        *((f"{math_title(m)}\nregenerated", pictures[2]) for m, pictures in shown.items()),
        ("low resolution", low),
        *((f"{math_title(m)}\noutput", pictures[1]) for m, pictures in shown.items()),
        ("reference", reference),
    ]
    return _grid([(title, [(p, "gray", 1.0, "") for p in pictures]) for title, pictures in lines])


def figure_19(reference: Tensor, outputs: Mapping[str, Tensor]) -> Figure:
    """Outputs with their absolute errors on one scale and the mean absolute error (Figures 19 and 21).

    Args:
        reference: [n, C, h, w].
        outputs: the same, per model.
    """
    errors = {m: (o - reference).abs().mean(1, keepdim=True) for m, o in outputs.items()}
    top = max(float(e.max()) for e in errors.values()) if errors else 1.0
    lines: list[tuple[str, list[tuple[Tensor | None, str, float, str]]]] = [
        ("reference", [cell for p in reference for cell in ((p, "gray", 1.0, ""), (None, "", 1.0, ""))])
    ]
    for model, output in outputs.items():
        cells: list[tuple[Tensor | None, str, float, str]] = []
        for picture, error in zip(output, errors[model], strict=True):
            cells += [(picture, "gray", 1.0, ""), (error, "magma", top, f"{float(error.mean()):.3f}")]
        lines.append((math_title(model), cells))
    return _grid(lines)


def figure_9(results: SmokeResults) -> Figure:
    """L2 on a logarithmic axis: medians, least to most, runs, collapsed ones crossed; then Table 6."""
    models = {title: results.of_task(*phases) for title, phases in _run_panels(results).items()}
    printed = {title: theirs for title, of in models.items() if (theirs := [m for m in of if m in paper.L2])}
    heads = {f"{t}, this study": t for t in models} | {f"{t}, the paper (its own sum)": t for t in printed}
    figure, axes = panels({head: len(models[title]) for head, title in heads.items()}, max(1, len(models)))
    for axis, (head, title) in zip(axes, heads.items(), strict=True):
        ours = head.endswith("study")
        rows(axis, models[title])
        for place, model in enumerate(models[title]):
            runs = [(float(x["l2"]), bool(x["collapsed"])) for x in results.of(model).values()]
            _row(axis, place, model, runs if ours else [(v, False) for v in paper.L2.get(model, ())])
        constants = [m["constants"] for r, m in results.metrics.items() if r.task == title[:2]]
        if ours and "black" in constants[0]:
            axis.axvline(constants[0]["black"], color="#666666", linestyle="--", linewidth=1, zorder=1)
        _logarithmic(axis)
        axis.set_xlabel("L2 loss", fontsize=9)
        axis.set_title(head, fontsize=9.5)
    handles = [
        Line2D([], [], marker="o", linestyle="-", color="black", label="median, least to most"),
        Line2D([], [], marker="o", linestyle="", markersize=3.5, color="black", alpha=0.55, label="run"),
        Line2D([], [], marker="x", linestyle="", color=_COLLAPSED, label="collapsed run"),
        Line2D([], [], color="#666666", linestyle="--", linewidth=1, label="black picture"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def _logarithmic(axis: Axes) -> None:
    """Within a decade matplotlib labels every step, one over the other: there the labels are a few plain numbers."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    if high < 10 * low:
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter("{x:.4g}")
        axis.xaxis.set_minor_locator(NullLocator())


def _row(axis: Axes, place: int, model: str, runs: Sequence[tuple[float, bool]]) -> None:
    if not runs:
        not_run(axis, place)
        return
    values, color = [v for v, _ in runs], color_of(model)
    axis.hlines(place, min(values), max(values), color=color, linewidth=1.2)
    axis.plot(float(np.median(values)), place, "o", color=color, markersize=5, zorder=3)
    kept, collapsed = ([v for v, c in runs if c == which] for which in (False, True))
    axis.scatter(kept, [place + 0.27] * len(kept), s=9, color=color, alpha=0.55, linewidths=0)
    axis.scatter(collapsed, [place + 0.27] * len(collapsed), s=16, marker="x", color=_COLLAPSED, linewidths=1)


def _run_panels(results: SmokeResults) -> dict[str, tuple[str, ...]]:
    """Panels of which something is finished."""
    return {t: p for t, p in _PANELS.items() if any(results.of(m) for m in results.of_task(*p))}


def curves_a(results: SmokeResults) -> Figure:
    """Phase I against steps: PSNR of the super-resolution, its L2, error of the regenerated low resolution."""
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.5), layout="constrained")
    names = {"psnr": "PSNR, dB", "l2": "L2", "regeneration_error": "error of the regenerated input"}
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        for model in results.of_task("A"):
            _curve(axis, model, [m["history"] for m in results.of(model).values()], name)
        axis.set_ylabel(label)
        if name != "psnr":
            axis.set_yscale("log")
        if name == "regeneration_error":
            axis.axhline(1, color="#666666", linestyle="--", linewidth=1)
    axes[0].legend(fontsize=9, frameon=False)
    return figure


def curves_b(results: SmokeResults) -> Figure:
    """Figures 18 and 20: L2 of the auto-encoders against steps, below them their last fifth."""
    panels = _run_panels(results)
    figure, axes = plt.subplots(2, len(panels), figsize=(1 + 3.6 * len(panels), 6), squeeze=False)
    figure.set_layout_engine("constrained")
    for column, (title, phases) in zip(axes.T, panels.items(), strict=True):
        for axis, share in zip(column, (0.0, 0.8), strict=True):
            for model in results.of_task(*phases):
                histories = [
                    [p for p in m["history"] if p["step"] >= share * m["steps"]] for m in results.of(model).values()
                ]
                _curve(axis, model, histories, "l2")
            axis.set_yscale("log")
            axis.set_ylabel("test L2")
        column[0].set_title(title, fontsize=10)
        column[1].set_title("the last fifth", fontsize=9)
        column[0].legend(fontsize=8, frameon=False)
    return figure


def _curve(axis: Axes, model: str, histories: Sequence[Sequence[Mapping[str, Any]]], name: str) -> None:
    color, style = color_of(model), variant_of(model).method.line
    histories = [history for history in histories if len(history) > 1]
    for history in histories:
        axis.plot([p["step"] for p in history], [p[name] for p in history], color=color, linewidth=0.6, alpha=0.5)
    steps = sorted(set.intersection(*({p["step"] for p in h} for h in histories))) if histories else []
    if len(steps) > 1:
        values = [[next(p[name] for p in h if p["step"] == s) for h in histories] for s in steps]
        axis.plot(steps, np.median(values, 1), style, color=color, linewidth=2, label=math_title(model))
    axis.set_xlabel("step")
    axis.grid(color="#e4e4e4", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _show(axis: Axes, picture: Tensor, colors: str = "gray", top: float = 1.0) -> None:
    image = picture.clamp(0, top).permute(1, 2, 0).numpy()
    axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap=colors, vmin=0, vmax=top)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color("#bbbbbb")


def _grid(lines: Sequence[tuple[str, Sequence[tuple[Tensor | None, str, float, str]]]]) -> Figure:
    """Rows of (picture, colours, highest value, label), each with its title on the left."""
    columns = len(lines[0][1])
    first = next(p for p, *_ in lines[0][1] if p is not None)
    aspect = first.shape[-2] / first.shape[-1]
    wide = min(1.05, 11 / columns)
    margin = 1.1
    figure, axes = plt.subplots(
        len(lines), columns, figsize=(margin + wide * columns, wide * aspect * len(lines) + 0.1), squeeze=False
    )
    for line, (title, cells) in zip(axes, lines, strict=True):
        for axis, (picture, colors, top, label) in zip(line, cells, strict=True):
            if picture is None:
                axis.set_axis_off()
                continue
            _show(axis, picture, colors, top)
            if label:
                axis.text(
                    0.03, 0.97, label, color="white", fontsize=7, va="top", transform=axis.transAxes, gid=AS_DRAWN
                )
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    width = figure.get_size_inches()[0]
    figure.subplots_adjust(left=margin / width, right=0.998, top=0.995, bottom=0.005, wspace=0.04, hspace=0.04)
    return figure
