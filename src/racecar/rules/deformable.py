"""Deformable convolution (torchvision's): a convolution that reads beside its places, by offsets and a mask.

Linear in what it reads; offsets and mask keep their forward values, as a coefficient does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, register_reverse, zero_unknown


def deform_conv2d(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *places: Any) -> Tensor:
    """torchvision's operation of this name; ``places``: strides, paddings, dilations, groups, whether it has a mask."""
    return torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, *places)


class _Adjoint(torch.autograd.Function):
    """⟨D(x), y⟩ = ⟨x, D*(y)⟩ for D without its bias. torchvision's own derivative of D cannot be differentiated."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, like: Tensor, *places: Any
    ) -> Tensor:
        ctx.save_for_backward(y, weight, offset, mask)
        ctx.places = places
        return _derivatives(y, torch.zeros_like(like), weight, offset, mask, places)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        y, weight, offset, mask = ctx.saved_tensors
        # ⟨g, D*(y)⟩ = ⟨D(g), y⟩, so that its derivatives are those of D at g.
        forth = deform_conv2d(g, weight, offset, mask, g.new_zeros(weight.shape[0]), *ctx.places)
        _, for_weight, for_offset, for_mask, _ = _derivatives(y, g, weight, offset, mask, ctx.places)
        return forth, for_weight, for_offset, for_mask, None, *[None] * len(ctx.places)


def _derivatives(y: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, places: Any) -> Any:
    """Of ⟨D(x), y⟩ by x, weight, offset, mask and bias."""
    bias = y.new_zeros(weight.shape[0])
    return torch.ops.torchvision._deform_conv2d_backward(
        y.contiguous(), x.contiguous(), weight, offset, mask, bias, *places
    )


def deform_conv2d_adjoint(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    *places: Any,
    context: ReverseCall,
) -> Tensor:
    """(N, out, H', W') → (N, in, H, W): bias subtracted, then the adjoint."""
    given = zero_unknown(estimate - bias.view(-1, 1, 1), context.known[0])
    return _Adjoint.apply(given, weight, offset, mask, torch.empty_like(x, requires_grad=False), *places)


def reached_informs(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Known where anything of the sample is."""
    return (estimate != 0).flatten(1).any(1).to(torch.float64).view(-1, 1, 1, 1).expand(x.shape)


register_reverse(deform_conv2d, deform_conv2d_adjoint, layer="conv", informs=reached_informs, context=True)
