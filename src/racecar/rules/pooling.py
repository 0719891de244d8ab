"""Pooling is reversed by nearest-neighbour upsampling, upsampling by max pooling (UP and MP of Tables 7 to 16).

Both return to the forward input's size. The estimate keeps its range of values, so range maps pass through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse

aten = torch.ops.aten

_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _resize(estimate: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, *any) → (N, C, *size): nearest where it grows, max where it shrinks."""
    dims = len(size)
    batched = estimate if estimate.ndim == dims + 2 else estimate.unsqueeze(0)
    here = batched.shape[2:]
    if any(a > b for a, b in zip(here, size, strict=True)):
        batched = _ADAPTIVE_MAX[dims](batched, [min(a, b) for a, b in zip(here, size, strict=True)])
    if tuple(batched.shape[2:]) != tuple(size):
        batched = F.interpolate(batched, size=list(size), mode="nearest")
    return batched if estimate.ndim == dims + 2 else batched.squeeze(0)


def resize1d(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """(N, C, l) → (N, C, L) of the forward input."""
    return _resize(estimate, x.shape[-1:])


def resize2d(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """(N, C, h, w) → (N, C, H, W) of the forward input."""
    return _resize(estimate, x.shape[-2:])


def resize3d(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """(N, C, d, h, w) → (N, C, D, H, W) of the forward input."""
    return _resize(estimate, x.shape[-3:])


_OPS = {
    resize1d: (
        aten.max_pool1d.default,
        aten.avg_pool1d.default,
        aten.adaptive_avg_pool1d.default,
        aten.upsample_nearest1d.vec,
        aten.upsample_nearest1d.default,
        aten._upsample_nearest_exact1d.vec,
        aten._upsample_nearest_exact1d.default,
        aten.upsample_linear1d.vec,
        aten.upsample_linear1d.default,
    ),
    resize2d: (
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact2d.default,
        aten.upsample_bilinear2d.vec,
        aten.upsample_bilinear2d.default,
        aten._upsample_bilinear2d_aa.vec,
        aten._upsample_bilinear2d_aa.default,
        aten.upsample_bicubic2d.vec,
        aten.upsample_bicubic2d.default,
        aten._upsample_bicubic2d_aa.vec,
        aten._upsample_bicubic2d_aa.default,
    ),
    resize3d: (
        aten.max_pool3d.default,
        aten.avg_pool3d.default,
        aten.adaptive_avg_pool3d.default,
        aten.upsample_nearest3d.vec,
        aten.upsample_nearest3d.default,
        aten._upsample_nearest_exact3d.vec,
        aten._upsample_nearest_exact3d.default,
        aten.upsample_trilinear3d.vec,
        aten.upsample_trilinear3d.default,
    ),
}
for _rule, _ops in _OPS.items():
    for _op in _ops:
        register_reverse(_op, _rule, range="through")


def resize_first1d(estimate: list[Tensor | None], x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    """(N, C, l) → (N, C, L) of the forward input, for pooling that returns (values, indices)."""
    return None if estimate[0] is None else resize1d(estimate[0], x)


def resize_first2d(estimate: list[Tensor | None], x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    """(N, C, h, w) → (N, C, H, W) of the forward input, for pooling that returns (values, indices)."""
    return None if estimate[0] is None else resize2d(estimate[0], x)


def resize_first3d(estimate: list[Tensor | None], x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    """(N, C, d, h, w) → (N, C, D, H, W) of the forward input, for pooling that returns (values, indices)."""
    return None if estimate[0] is None else resize3d(estimate[0], x)


for _first, _ops in {
    resize_first1d: (aten.max_pool1d_with_indices.default, aten.adaptive_max_pool1d.default),
    resize_first2d: (
        aten.max_pool2d_with_indices.default,
        aten.adaptive_max_pool2d.default,
        aten.fractional_max_pool2d.default,
    ),
    resize_first3d: (
        aten.max_pool3d_with_indices.default,
        aten.adaptive_max_pool3d.default,
        aten.fractional_max_pool3d.default,
    ),
}.items():
    for _op in _ops:
        register_reverse(_op, _first, range="through")


def unpool_back(
    estimate: Tensor, x: Tensor, indices: Tensor, size: Sequence[int], *args: object, context: ReverseCall
) -> Tensor:
    """(N, C, *big) → (N, C, *size) of the forward input: the entries at the places that it was put to.

    The places differ from call to call: where such an entry is not known, the forward value itself.
    """
    refuse_data_as_weights(context.estimated[0])
    big, known = -len(size), context.known[0]
    places = indices.flatten(big)
    back = estimate.flatten(big).gather(-1, places).reshape(x.shape)
    if known is None:
        return back
    return torch.where(known.expand(estimate.shape).flatten(big).gather(-1, places).reshape(x.shape), back, x)


def unpool_informs(estimate: Tensor, x: Tensor, *args: object, context: ReverseCall) -> Tensor:
    """Every entry comes back or is forward's own."""
    return (estimate != 0).any().to(torch.float64).expand(x.shape)


for _op in (aten.max_unpool2d.default, aten.max_unpool3d.default):
    register_reverse(_op, unpool_back, range="within", informs=unpool_informs, context=True)


@register_reverse(aten.sum.dim_IntList)
def sum_spread(
    estimate: Tensor, x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **kwargs: object
) -> Tensor:
    """A sum over some dimensions: every summand gets an equal share of it."""
    spread = mean_spread(estimate, x, dim, keepdim)
    return spread * (estimate.numel() / x.numel())


@register_reverse(aten.sum.default)
def sum_of_all_spread(estimate: Tensor, x: Tensor, **kwargs: object) -> Tensor:
    """The sum of everything: an equal share of it to every entry."""
    return (estimate / x.numel()).expand(x.shape)


@register_reverse(aten.logsumexp.default)
def logsumexp_spread(estimate: Tensor, x: Tensor, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    """A sum of exponentials over some dimensions, as a logarithm: an equal share of the sum to every summand."""
    return mean_spread(estimate, x, dim or None, keepdim) - math.log(x.numel() / estimate.numel())


def max_spread(estimate: Tensor, x: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """The maximum over some dimensions is handed to every place, as every pooling's result is."""
    return mean_spread(estimate, x, dim or None, keepdim)


for _op in (aten.amax.default, aten.amin.default):
    register_reverse(_op, max_spread, range="through")


def first_max_spread(estimate: Sequence[Tensor], x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """The maximum over one dimension, of (maximum, index), is handed to every place of it."""
    return mean_spread(estimate[0], x, [dim], keepdim)


for _op in (aten.max.dim, aten.min.dim, aten.median.dim, aten.nanmedian.dim, aten.mode.default):
    register_reverse(_op, first_max_spread, range="through")


@register_reverse(aten.kthvalue.default, range="through")
def kth_spread(estimate: Sequence[Tensor], x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Tensor:
    """The k-th smallest value of one dimension, of (value, index), is handed to every place of it."""
    return first_max_spread(estimate, x, dim, keepdim)


def mean_of_all_spread(estimate: Tensor, x: Tensor, **kwargs: object) -> Tensor:
    """The mean (or maximum) of everything is handed to every entry."""
    return estimate.expand(x.shape)


for _op in (aten.mean.default, aten.max.default, aten.min.default, aten.median.default, aten.nanmedian.default):
    register_reverse(_op, mean_of_all_spread, range="through")


@register_reverse(aten.mean.dim, range="through")
def mean_spread(
    estimate: Tensor, x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **kwargs: object
) -> Tensor:
    """The mean over some dimensions is handed to every place it was taken from."""
    if not keepdim:
        for d in sorted(d % x.ndim for d in (range(x.ndim) if dim is None else dim)):
            estimate = estimate.unsqueeze(d)
    return estimate.expand(x.shape)
