"""Fully connected operations: L = M x + b is reversed as M^T (L - b) (Section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from racecar.rules.attention import attended_average
from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten


@register_reverse(aten.linear.default, layer="linear", operands=1, context=True)
def linear_adjoint(
    estimate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, context: ReverseCall
) -> Tensor:
    """(…, out) → (…, in): (y - b) W, over the outputs that are known."""
    refuse_data_as_weights(context.estimated[0])
    return zero_unknown(estimate if bias is None else estimate - bias, context.known[0]) @ weight


@register_reverse(aten.addmm.default, layer="linear", operands=1, context=True)
def addmm_adjoint(
    estimate: Tensor,
    bias: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    context: ReverseCall,
) -> Tensor:
    """(rows, out) → (rows, in), for bias·beta + alpha·(x @ weight) with data in x."""
    refuse_data_as_weights(context.estimated[1])
    return alpha * (zero_unknown(estimate - beta * bias, context.known[0]) @ weight.mT)


def matmul_adjoint(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> Tensor:
    """The adjoint of ``a @ b`` towards one operand, summed over where that was broadcast; for attention the average."""
    if context.average:
        (known,) = context.known
        if context.estimated[1]:
            return attended_average(estimate, a, known)
        return attended_average(estimate.mT, b.mT, None if known is None else known.mT).mT
    # A vector takes part as a row on the left and as a column on the right.
    left, right = (a if a.ndim > 1 else a.unsqueeze(0)), (b if b.ndim > 1 else b.unsqueeze(1))
    if b.ndim == 1:
        estimate = estimate.unsqueeze(-1)
    if a.ndim == 1:
        estimate = estimate.unsqueeze(-2)
    if context.estimated[0]:
        return (estimate @ right.mT).sum_to_size(left.shape).reshape(a.shape)
    return (left.mT @ estimate).sum_to_size(right.shape).reshape(b.shape)


for _op in (aten.matmul.default, aten.mm.default, aten.bmm.default):
    register_reverse(_op, matmul_adjoint, layer="linear", operands=1, context=True)
