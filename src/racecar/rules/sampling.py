"""Values read at places between pixels: linear in what is read, so that the adjoint spreads an estimate back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten

_DERIVATIVE = {4: aten.grid_sampler_2d_backward.default, 5: aten.grid_sampler_3d_backward.default}


class _Adjoint(torch.autograd.Function):
    """torch's derivative of sampling, whose own derivative torch 2.11 does not have: it is sampling again."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, size: Tensor, grid: Tensor, *modes: Any) -> Tensor:
        ctx.save_for_backward(estimate, grid)
        ctx.modes = modes
        result: Tensor = _DERIVATIVE[size.ndim](estimate, size, grid, *modes, [True, False])[0]
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        estimate, grid = ctx.saved_tensors
        towards_grid = (
            _DERIVATIVE[gradient.ndim](estimate, gradient, grid, *ctx.modes, [False, True])[1]
            if ctx.needs_input_grad[2]
            else None
        )
        return aten.grid_sampler.default(gradient, grid, *ctx.modes), None, towards_grid, None, None, None


def grid_sampler_adjoint(
    estimate: Tensor,
    x: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    *,
    context: ReverseCall,
) -> Tensor:
    """(N, C, *grid) → (N, C, *size) of the forward input: torch's derivative towards it. The grid is a coefficient."""
    refuse_data_as_weights(context.estimated[0])
    if interpolation_mode == 2 and x.ndim != 4:
        raise NotImplementedError("bicubic sampling of volumes")
    given = zero_unknown(estimate, context.known[0])
    modes = (interpolation_mode, padding_mode, align_corners)
    size = given.new_zeros(()).expand(x.shape)
    result: Tensor = _Adjoint.apply(given, size, grid, *modes)
    return result


def sampled_informs(estimate: Tensor, x: Tensor, *args: object, context: ReverseCall) -> Tensor:
    """Known where any sample of the channel is: as for the adjoint of a layer."""
    return (estimate != 0).flatten(2).any(-1).to(torch.float64)[(..., *[None] * (x.ndim - 2))].expand(x.shape)


for _op in (aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default):
    register_reverse(_op, grid_sampler_adjoint, informs=sampled_informs, context=True)
