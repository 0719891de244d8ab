"""A look inside: what the reverse pass regenerates, how far off it is by layer, and a layer's singular values.

Drawn by matplotlib, which the library does not need otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from racecar.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from racecar.module import Racecar

_SHOWN = 6  # layers in a row
_ROWS = 24  # samples of a layer that has no picture
_FORWARD, _REVERSE = "#4477aa", "#ee6677"  # told apart by the colour-blind (Tol)


def plot(rr: Racecar, args: tuple[Any, ...], kwargs: Mapping[str, Any], layer: str | None) -> Figure:
    """Figure of :meth:`racecar.Racecar.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("rr.plot draws with matplotlib, which is not installed: pip install matplotlib") from error
    if "IPython" in sys.modules:
        import matplotlib.pyplot  # noqa: F401 — registers what shows a figure in a notebook
    spectrum = _weight(rr, layer)
    with torch.no_grad():
        pairs = rr.reconstruct(*args, **kwargs)
    names = _spread(list(pairs))
    figure = Figure(figsize=(max(6.5, 1.6 * len(names)), 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1])  # type: ignore[misc]
    above.suptitle(
        "Inputs of the compared layers: in the forward pass L, and regenerated L′"
        + ("" if len(names) == len(pairs) else f" ({len(names)} of {len(pairs)})"),
        fontsize=9,
    )
    axes = above.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        _pair(axes[:, column], name, *(t.detach().float().cpu() for t in pairs[name]))
    left, right = below.subplots(1, 2)
    _distances(left, pairs)
    _spectrum(right, *spectrum)
    return figure


def _spread(names: Sequence[str]) -> list[str]:
    """The first layer, the last one and some between."""
    count = min(len(names), _SHOWN)
    return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]


def _weight(rr: Racecar, layer: str | None) -> tuple[str, Tensor | None]:
    """A layer's name and its weight; None where a module of that name has none."""
    name = rr.layers[0] if layer is None else layer
    if name not in rr.layers:
        raise ArgumentError(f"layer={layer!r} is not among the compared layers {', '.join(map(repr, rr.layers))}")
    try:
        weight = rr.model.get_submodule(name.partition("#")[0]).weight
    except AttributeError:
        return name, None
    return name, weight if isinstance(weight, Tensor) and weight.ndim > 1 else None


def _pair(axes: Sequence[Axes], name: str, forward: Tensor, reverse: Tensor) -> None:
    pictures = [_picture(forward), _picture(reverse)]
    low, high = float(pictures[0].min()), float(pictures[0].max())
    for axis, picture, label in zip(axes, pictures, ("L", "L′"), strict=True):
        picture = ((picture - low) / max(high - low, 1e-12)).clamp(0, 1)
        axis.imshow(
            picture.numpy(),
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect="equal" if forward.ndim == 4 else "auto",
        )
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, labelpad=8, fontsize=8)
    axes[0].set_title(f"{name}\n{'×'.join(map(str, forward.shape[1:]))}", fontsize=7)


def _picture(value: Tensor) -> Tensor:
    """The first sample of images, in colour if they have three channels, else their channels' mean; of other values a
    row per sample.
    """
    if value.ndim == 4:
        return value[0].permute(1, 2, 0) if value.shape[1] == 3 else value[0].mean(0)
    return value[0].flatten(0, -2) if value.ndim > 2 else value.reshape(value.shape[0], -1)[:_ROWS]


def _distances(axis: Axes, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    shares = []
    for forward, reverse in pairs.values():
        known = ~reverse.isnan()
        gap = (forward - reverse)[known].double().norm()
        shares.append(float(gap / forward[known].double().norm().clamp(min=1e-12)))
    axis.plot(shares, "o-", color=_REVERSE, markersize=4, linewidth=0.8)
    axis.axhline(1, color="#888888", linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(shares)), list(pairs) if len(pairs) <= 12 else [""] * len(pairs))
    axis.tick_params(axis="x", rotation=60 if len(pairs) > 4 else 0, labelsize=7)
    axis.set_ylim(bottom=0)
    axis.set_title("Distance ‖L − L′‖ / ‖L‖ (1: nothing regenerated)", fontsize=9)
    _plain(axis)


def _spectrum(axis: Axes, name: str, weight: Tensor | None) -> None:
    if weight is None:
        axis.set_axis_off()
        axis.text(0.5, 0.5, f"{name} has no weight of its own", ha="center", va="center", fontsize=8)
        return
    values = torch.linalg.svdvals(weight.detach().flatten(1).double().cpu())
    axis.plot(range(1, len(values) + 1), values.numpy(), "o-", color=_FORWARD, markersize=3, linewidth=0.8)
    axis.set_ylim(bottom=0)
    axis.set_title(f"Singular values of {name}", fontsize=9)
    _plain(axis)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7)
