"""The racecar loss of one layer (the summand of Eq. 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from racecar.options import Reduction

_LARGE = 2**18  # entries: thousands of rows


def half_squared_distance(
    forward: Tensor, reverse: Tensor, reduction: Reduction = "mean", known: Tensor | None = None
) -> Tensor:
    """½‖L_m − L'_m‖², without its λ_m; of complex numbers by their modulus.

    Args:
        forward: L_m, any shape.
        reverse: L'_m, the same shape.
        reduction: ``"sum"`` over batch and units, as the paper's λ need (TensorFlow's ``l2_loss``); ``"mean"`` per
            element, independent of batch and layer size.
        known: which entries of L'_m are known, a bool tensor that broadcasts; the others take no part. None: all.

    Returns:
        A scalar in at least single precision.
    """
    if forward.shape != reverse.shape:
        forward, reverse = torch.broadcast_tensors(forward, reverse)
    if torch.compiler.is_compiling():  # fuses this, and chooses itself what to keep
        difference = _difference(forward, reverse, known)
        exact = difference.to(_precision(difference))
        total = 0.5 * (exact.abs() if exact.is_complex() else exact).square().sum()
    else:
        total = 0.5 * _SquaredDistance.apply(forward, reverse, known)
    if reduction == "sum":
        return total
    if known is None:
        return total / max(reverse.numel(), 1)  # an empty batch is no distance
    return total / (known.sum() * (reverse.numel() // known.numel())).clamp(min=1)


class _SquaredDistance(Function):
    """‖L − L'‖², which keeps L and L' for the backward pass: both are kept anyway, their difference would be one more.

    A layer's distance is memory traffic, no arithmetic: forward, the difference is written once and read once.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(left: Tensor, right: Tensor, known: Tensor | None) -> Tensor:
        difference = _difference(left, right, known)
        rows = _rows(difference)
        if rows is not None:
            return torch.linalg.vector_norm(rows, dim=1).float().square().sum()
        # Sample by sample: single precision would not do for one sum over millions of entries.
        dims = tuple(range(1, difference.ndim)) or None
        return torch.linalg.vector_norm(difference, dim=dims, dtype=_precision(difference)).square().sum()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right, known = ctx.saved_tensors
        scaled = _difference(left, right, known) * (2 * gradient)
        return (
            scaled.to(left.dtype) if ctx.needs_input_grad[0] else None,
            -scaled.to(right.dtype) if ctx.needs_input_grad[1] else None,
            None,
        )


def _rows(difference: Tensor) -> Tensor | None:
    """A large half-precision difference on a CPU as rows of 64, as it lies in memory; None for others.

    To sum it in single precision torch would write it once more in that precision. A row's norm is summed so as well,
    and then rounded by 2⁻⁹ at most, up or down, of which little is left in the sum over thousands of rows. The gradient
    has no part in this.
    """
    if difference.is_cuda or difference.dtype not in (torch.bfloat16, torch.float16) or difference.numel() % 64:
        return None
    if difference.numel() < _LARGE:
        return None
    order = sorted(range(difference.ndim), key=difference.stride, reverse=True)
    laid_out = difference.permute(order)
    return laid_out.view(-1, 64) if laid_out.is_contiguous() else None


def _difference(left: Tensor, right: Tensor, known: Tensor | None) -> Tensor:
    return left - right if known is None else torch.where(known, left - right, 0)


def _precision(difference: Tensor) -> torch.dtype:
    return torch.promote_types(difference.dtype, torch.float32)
