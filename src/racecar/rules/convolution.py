"""Convolutions in 1, 2 and 3 dimensions and their transposes: bias subtracted, then the exact adjoint (Figure 1).

The adjoint of a convolution is the transposed convolution with the same kernel (a complex one conjugated; ``conj`` of a
real tensor is the tensor itself), and the other way round. Strided
convolutions map several input sizes to one output size; the adjoint returns to the forward input's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.pooling import resize2d
from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
Size = int | Sequence[int]


def _each(value: Size, dims: int) -> list[int]:
    """An ATen size argument (an int, or one or ``dims`` ints) as a list of ``dims`` ints."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _without_bias(estimate: Tensor, bias: Tensor | None, dims: int, known: Tensor | None) -> Tensor:
    # In the estimate's dtype: under autocast a float32 bias would make the whole estimate float32.
    return zero_unknown(estimate if bias is None else estimate - bias.to(estimate.dtype).view(-1, *[1] * dims), known)


def _cut(result: Tensor, size: Sequence[int]) -> Tensor:
    """The leading part of the last dimensions."""
    for dim, length in enumerate(size, start=-len(size)):
        result = result.narrow(dim, 0, length)
    return result


def conv_adjoint(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    context: ReverseCall,
) -> Tensor:
    """(N, out, *spatial') → (N, in, *spatial): the transposed convolution with the forward kernel."""
    refuse_data_as_weights(context.estimated[0])
    dims = weight.ndim - 2
    size, kernel = x.shape[-dims:], weight.shape[2:]
    stride, dilation = _each(stride, dims), _each(dilation, dims)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":  # stride is 1; an odd total pads one more at the end, which is cut off below
        low, high = [r // 2 for r in reach], [r - r // 2 for r in reach]
    else:
        low = high = [0] * dims if isinstance(padding, str) else _each(padding, dims)
    # What the last stride of the forward pass left over, so that the forward input's size comes back.
    rest = [
        s - ((o - 1) * t - a - b + r + 1)
        for s, o, t, a, b, r in zip(size, estimate.shape[-dims:], stride, low, high, reach, strict=True)
    ]
    excess = [b - a for a, b in zip(low, high, strict=True)]
    left = _without_bias(estimate, bias, dims, context.known[0])
    result = _TRANSPOSED[dims](left, weight.conj(), None, stride, low, rest, groups, dilation)
    if any(excess):
        result = _cut(result, size)
    return result


def upsampled_adjoint(
    estimate: Tensor,
    pooled: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    context: ReverseCall,
) -> Tensor:
    """(N, out, h, w) → (N, in, *spatial): the adjoint of a convolution whose output was pooled, upsampling included.

    Upsampled by two, 2 × 2 places hold one value: the taps that meet it are summed beforehand, and one transposed
    convolution of stride 2 does with 4 × 4 taps for 2 × 2 places what took 3 × 3 for each. Equal but for
    rounding. It is done in single and double precision on a CPU, where it was measured to be faster (results/less.md).

    Args:
        estimate: of what the pooling gave.
        pooled: what it was given; its size alone matters.
        x, weight, bias, stride, padding, dilation, groups, context: see :func:`conv_adjoint`.
    """
    if not _sums_taps(estimate, pooled, weight, stride, padding, dilation):
        whole = resize2d(estimate, pooled)
        return conv_adjoint(whole, x, weight, bias, stride, padding, dilation, groups, context=context)
    around = [(k - 1) // 2 for k in weight.shape[2:]] if padding == "same" else padding
    kernel = F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, 1, divisor_override=1)
    left = _without_bias(estimate, bias, 2, None)
    return F.conv_transpose2d(left, kernel, None, 2, [0, 0] if isinstance(around, str) else _each(around, 2), 0, groups)


def _sums_taps(
    estimate: Tensor, pooled: Tensor, weight: Tensor, stride: Size, padding: Size | str, dilation: Size
) -> bool:
    """Whether the estimate is upsampled by exactly two to what a plain convolution gave, where that is worth while."""
    kernel = weight.shape[2:]
    return (
        estimate.device.type == "cpu"
        and estimate.dtype == weight.dtype
        and estimate.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and estimate.ndim == 4
        and all(2 * small == big for small, big in zip(estimate.shape[2:], pooled.shape[2:], strict=True))
        and _each(stride, 2) == _each(dilation, 2) == [1, 1]
        and min(kernel) > 1
        and (padding != "same" or all(k % 2 for k in kernel))
    )


def conv_transpose_adjoint(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    context: ReverseCall,
) -> Tensor:
    """(N, out, *spatial') → (N, in, *spatial): the convolution with the forward kernel."""
    refuse_data_as_weights(context.estimated[0])
    dims = weight.ndim - 2
    result = _CONV[dims](
        _without_bias(estimate, bias, dims, context.known[0]),
        weight.conj(),
        None,
        _each(stride, dims),
        _each(padding, dims),
        _each(dilation, dims),
        groups,
    )
    # output_padding may exceed the stride where dilation is larger: the surplus has no forward input.
    return _cut(result, x.shape[-dims:])


for _op in (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
):
    register_reverse(_op, conv_adjoint, layer="conv", operands=1, context=True)
for _op in (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input):
    register_reverse(_op, conv_transpose_adjoint, layer="conv", operands=1, context=True)
