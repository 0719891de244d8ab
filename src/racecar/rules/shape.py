"""Operations that only move values: each is undone by its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import register_reverse

aten = torch.ops.aten


def reshape_back(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The estimate in the shape of the forward input."""
    return estimate.reshape(x.shape)


for _op in (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.view_as.default,
    aten.reshape_as.default,
):
    register_reverse(_op, reshape_back, range="within")


@register_reverse(aten.permute.default, range="within")
def permute_back(estimate: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """The inverse permutation of dimensions."""
    forward = [d % x.ndim for d in dims]
    return estimate.permute([forward.index(d) for d in range(x.ndim)])


@register_reverse(aten.transpose.int, range="within")
def transpose_back(estimate: Tensor, x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped once more."""
    return estimate.transpose(dim0, dim1)


def matrix_transpose_back(estimate: Tensor, x: Tensor) -> Tensor:
    """The last two dimensions swapped once more (all two of a matrix)."""
    return estimate.transpose(-2, -1) if estimate.ndim > 1 else estimate


for _op in (aten.t.default, aten.numpy_T.default, aten.mT.default):
    register_reverse(_op, matrix_transpose_back, range="within")


def movedim_back(estimate: Tensor, x: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved back where they came from."""
    return estimate.movedim(destination, source)


for _op in (aten.movedim.int, aten.movedim.intlist):
    register_reverse(_op, movedim_back, range="within")


@register_reverse(aten.cat.default, range="within")
def cat_back(estimate: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> tuple[Tensor, ...]:
    """One piece of the estimate per concatenated tensor."""
    return torch.split(estimate, [t.shape[dim] for t in tensors], dim)


@register_reverse(aten.stack.default, range="within")
def stack_back(estimate: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> tuple[Tensor, ...]:
    """One slice of the estimate per stacked tensor."""
    return torch.unbind(estimate, dim)


def _known(estimate: Sequence[Tensor | None]) -> list[Tensor]:
    if any(e is None for e in estimate):
        missing = [i for i, e in enumerate(estimate) if e is None]
        raise NotImplementedError(
            f"pieces {missing} of {len(estimate)} are not used on the way to the start, so nothing is known of them"
        )
    return [e for e in estimate if e is not None]


def split_back(estimate: Sequence[Tensor | None], x: Tensor, parts: object, dim: int = 0) -> Tensor:
    """The pieces put together again; every piece must have come back."""
    return torch.cat(_known(estimate), dim)


for _op in (aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default):
    register_reverse(_op, split_back)


@register_reverse(aten.unbind.int)
def unbind_back(estimate: Sequence[Tensor | None], x: Tensor, dim: int = 0) -> Tensor:
    """The slices stacked again; every slice must have come back."""
    return torch.stack(_known(estimate), dim)


@register_reverse(aten.pixel_shuffle.default, range="within")
def pixel_shuffle_back(estimate: Tensor, x: Tensor, upscale_factor: int) -> Tensor:
    """(…, C, H·r, W·r) → (…, C·r², H, W)."""
    return F.pixel_unshuffle(estimate, upscale_factor)


@register_reverse(aten.pixel_unshuffle.default, range="within")
def pixel_unshuffle_back(estimate: Tensor, x: Tensor, downscale_factor: int) -> Tensor:
    """(…, C·r², H, W) → (…, C, H·r, W·r)."""
    return F.pixel_shuffle(estimate, downscale_factor)


@register_reverse(aten.pad.default, range="through")
def pad_back(estimate: Tensor, x: Tensor, pad: Sequence[int], *args: object, **kwargs: object) -> Tensor:
    """The padding cut off, whatever it was filled with; what a negative padding cut off comes back as zeros."""
    return F.pad(estimate, [-p for p in pad])
