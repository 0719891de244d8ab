"""Operations that only move values: each is undone by its inverse; what they drop stays unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.arithmetic import mean_to
from racecar.rules.registry import ReverseCall, register_reverse
from racecar.rules.reshapes import RESHAPES, SQUEEZES

aten = torch.ops.aten


def reshape_back(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The estimate in the shape of the forward input."""
    return estimate.reshape(x.shape)


for _op in RESHAPES | SQUEEZES:
    register_reverse(_op, reshape_back, range="within")


@register_reverse(aten.permute.default, range="within")
def permute_back(estimate: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """The inverse permutation of dimensions."""
    forward = [d % x.ndim for d in dims]
    return estimate.permute([forward.index(d) for d in range(x.ndim)])


def transpose_back(estimate: Tensor, x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions swapped back."""
    return estimate.transpose(dim0, dim1)


for _op in (aten.transpose.int, aten.swapaxes.default, aten.swapdims.default):
    register_reverse(_op, transpose_back, range="within")


def matrix_transpose_back(estimate: Tensor, x: Tensor) -> Tensor:
    """The last two dimensions swapped back (those of a matrix)."""
    return estimate.transpose(-2, -1) if estimate.ndim > 1 else estimate


for _op in (aten.t.default, aten.numpy_T.default, aten.mT.default):
    register_reverse(_op, matrix_transpose_back, range="within")


def conjugate_transpose_back(estimate: Tensor, x: Tensor) -> Tensor:
    """The last two dimensions swapped back and conjugated."""
    return estimate.mT.conj()


for _op in (aten.adjoint.default, aten.mH.default, aten.matrix_H.default):
    register_reverse(_op, conjugate_transpose_back, range="within")


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


def split_back(estimate: Sequence[Tensor], x: Tensor, parts: object, dim: int = 0) -> Tensor:
    """The pieces put together again."""
    return torch.cat(list(estimate), dim)


for _op in (
    *(aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default),
    *(aten.tensor_split.sections, aten.tensor_split.indices),
):
    register_reverse(_op, split_back)


@register_reverse(aten.unbind.int)
def unbind_back(estimate: Sequence[Tensor], x: Tensor, dim: int = 0) -> Tensor:
    """The slices stacked again."""
    return torch.stack(list(estimate), dim)


def _of_reals(op: Callable[..., Tensor], x: Tensor, src: Tensor, dim: int, *args: Any) -> Tensor:
    """``op(x, src, dim, …)``, of complex numbers by their parts: torch's scatters do not differentiate those."""
    if not x.is_complex():
        return op(x, src, dim, *args)
    parts, source = (torch.view_as_real(t.resolve_conj()) for t in (x, src.to(x.dtype)))
    return torch.view_as_complex(op(parts, source, dim % x.ndim, *args))


def put_slice(
    x: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of ``x`` with ``src`` in one of its slices (``torch.slice_scatter``)."""
    return _of_reals(torch.slice_scatter, x, src, dim, start, end, step)


def put_selected(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of ``x`` with ``src`` at one index of a dimension (``torch.select_scatter``)."""
    return _of_reals(torch.select_scatter, x, src, dim, index)


# What the following drop is unknown: zeros that the mask of the estimate covers.


@register_reverse(aten.select.int, range="within", partial=True)
def select_back(estimate: Tensor, x: Tensor, dim: int, index: int) -> Tensor:
    """The slice in its place."""
    return put_selected(estimate.new_zeros(x.shape), estimate, dim, index)


@register_reverse(aten.slice.Tensor, range="within", partial=True)
def slice_back(
    estimate: Tensor, x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """The slice in its place."""
    if estimate.shape == x.shape:
        return estimate
    return put_slice(estimate.new_zeros(x.shape), estimate, dim, start, end, step)


def slice_scatter_back(
    estimate: Tensor,
    x: Tensor,
    src: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> tuple[Tensor, Tensor]:
    """What was put in comes back from its place, the rest from everywhere else."""
    inside = aten.slice.Tensor(estimate, dim, start, end, step)
    return put_slice(estimate, torch.zeros_like(inside), dim, start, end, step), inside


def select_scatter_back(estimate: Tensor, x: Tensor, src: Tensor, dim: int, index: int) -> tuple[Tensor, Tensor]:
    """What was put in comes back from its place, the rest from everywhere else."""
    inside = estimate.select(dim, index)
    return put_selected(estimate, torch.zeros_like(inside), dim, index), inside


register_reverse(aten.slice_scatter.default, slice_scatter_back, partial=True)
register_reverse(put_slice, slice_scatter_back, partial=True)
register_reverse(aten.select_scatter.default, select_scatter_back, partial=True)
register_reverse(put_selected, select_scatter_back, partial=True)


# Reads a part of a value → puts such a part back.
PUTS_BACK: dict[object, Callable[..., Any]] = {
    aten.slice.Tensor: put_slice,
    aten.select.int: put_selected,
}


def written(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``x.copy_(source)`` out of place; ``aten.copy`` has no derivative."""
    return source.to(device=x.device, dtype=x.dtype).expand(x.shape)


@register_reverse(written, context=True)
@register_reverse(aten.fill.Tensor, context=True)
def written_back(
    estimate: Tensor, x: Tensor, source: Tensor, *args: object, context: ReverseCall
) -> tuple[None, Tensor]:
    """What was copied, the mean over its copies; what it was copied over is lost."""
    return None, mean_to(estimate, source, context.known[0]).to(source.dtype)


@register_reverse(aten.narrow.default, range="within", partial=True)
def narrow_back(estimate: Tensor, x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The slice in its place."""
    return put_slice(estimate.new_zeros(x.shape), estimate, dim, start, start + length)


@register_reverse(aten.diagonal.default, range="within", partial=True)
def diagonal_back(estimate: Tensor, x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal in its place."""
    return torch.diagonal_scatter(estimate.new_zeros(x.shape), estimate, offset, dim1, dim2)


@register_reverse(aten.diag_embed.default, range="within")
def diag_embed_back(estimate: Tensor, x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonal."""
    return estimate.diagonal(offset, dim1, dim2)


@register_reverse(aten.tril.default, range="within", partial=True)
def tril_back(estimate: Tensor, x: Tensor, diagonal: int = 0) -> Tensor:
    """What was kept in its place."""
    return estimate.tril(diagonal)


@register_reverse(aten.triu.default, range="within", partial=True)
def triu_back(estimate: Tensor, x: Tensor, diagonal: int = 0) -> Tensor:
    """What was kept in its place."""
    return estimate.triu(diagonal)


@register_reverse(aten.roll.default, range="within")
def roll_back(estimate: Tensor, x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """Rolled the other way."""
    return torch.roll(estimate, [-s for s in shifts], list(dims))


@register_reverse(aten.flip.default, range="within")
def flip_back(estimate: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """Flipped back."""
    return estimate.flip(list(dims))


@register_reverse(aten.unfold.default, range="within", partial=True)
def unfold_back(estimate: Tensor, x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """The mean over the windows that a value is in."""
    total = aten.unfold_backward(estimate, x.shape, dimension, size, step)
    count = aten.unfold_backward(torch.ones_like(estimate), x.shape, dimension, size, step)
    return total / count.clamp(min=1)


@register_reverse(aten.im2col.default, partial=True)
def im2col_back(estimate: Tensor, x: Tensor, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """(N, C·kernel, places) → (N, C, H, W): the mean over the windows that a pixel is in."""
    total = aten.col2im(estimate, x.shape[-2:], kernel_size, dilation, padding, stride)
    count = aten.col2im(torch.ones_like(estimate), x.shape[-2:], kernel_size, dilation, padding, stride)
    return total / count.clamp(min=1)


@register_reverse(aten.col2im.default)
def col2im_back(
    estimate: Tensor, x: Tensor, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Tensor:
    """(N, C, H, W) → (N, C·kernel, places): every window that a pixel is the sum of gets an equal share."""
    count = aten.col2im(torch.ones_like(x), output_size, kernel_size, dilation, padding, stride)
    return aten.im2col(estimate / count.clamp(min=1), kernel_size, dilation, padding, stride)


def expand_back(estimate: Tensor, x: Tensor, *args: object, context: ReverseCall, **kwargs: object) -> Tensor:
    """The mean over the copies that are known."""
    return mean_to(estimate, x, context.known[0])


for _op in (aten.expand.default, aten.expand_as.default, aten.broadcast_to.default):
    register_reverse(_op, expand_back, range="within", context=True)


@register_reverse(aten.repeat.default, range="within", context=True)
def repeat_back(estimate: Tensor, x: Tensor, repeats: Sequence[int], *, context: ReverseCall) -> Tensor:
    """The mean over the copies that are known."""
    sizes = [1] * (len(repeats) - x.ndim) + list(x.shape)
    parts = [s for pair in zip(repeats, sizes, strict=True) for s in pair]
    one = x.reshape([s for size in sizes for s in (1, size)])
    return _mean_of_parts(estimate, one, parts, context.known[0]).reshape(x.shape)


@register_reverse(aten.tile.default, range="within", context=True)
def tile_back(estimate: Tensor, x: Tensor, dims: Sequence[int], *, context: ReverseCall) -> Tensor:
    """The mean over the copies that are known."""
    return repeat_back(estimate, x, [1] * (x.ndim - len(dims)) + list(dims), context=context)


@register_reverse(aten.repeat_interleave.self_int, range="within", context=True)
def repeat_interleave_back(
    estimate: Tensor,
    x: Tensor,
    repeats: int,
    dim: int | None = None,
    *,
    output_size: int | None = None,
    context: ReverseCall,
) -> Tensor:
    """Every entry (or slice of a dimension) is the mean over its copies that are known."""
    before, after = ([], [x.numel()]) if dim is None else (list(x.shape[: dim % x.ndim]), list(x.shape[dim % x.ndim :]))
    one = x.reshape([*before, after[0], 1, *after[1:]])
    return _mean_of_parts(estimate, one, [*before, after[0], repeats, *after[1:]], context.known[0]).reshape(x.shape)


def _mean_of_parts(estimate: Tensor, one: Tensor, parts: Sequence[int], known: Tensor | None) -> Tensor:
    """The mean over the copies of ``one`` that an estimate holds when it is reshaped to ``parts``."""
    shown = None if known is None else known.expand(estimate.shape).reshape(parts)
    return mean_to(estimate.reshape(parts), one, shown)


def channel_shuffle_back(estimate: Tensor, x: Tensor, groups: int) -> Tensor:
    """The inverse permutation of channels: shuffled in as many groups as each has channels."""
    return torch.channel_shuffle(estimate, x.shape[1] // groups)


for _op in (aten.channel_shuffle.default, aten.native_channel_shuffle.default):
    register_reverse(_op, channel_shuffle_back, range="within")


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
