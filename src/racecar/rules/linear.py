"""Fully connected operations: L = M x + b is reversed as M^T (L - b) (Section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from racecar.rules.registry import register_reverse

aten = torch.ops.aten


@register_reverse(aten.linear.default, layer="linear", operands=1)
def linear_adjoint(estimate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(…, out) → (…, in): (y - b) W."""
    return (estimate if bias is None else estimate - bias) @ weight


@register_reverse(aten.addmm.default, layer="linear", operands=1)
def addmm_adjoint(
    estimate: Tensor, bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """(rows, out) → (rows, in), for bias·beta + alpha·(x @ weight) with data in x."""
    return alpha * ((estimate - beta * bias) @ weight.mT)


def matmul_adjoint(estimate: Tensor, a: Tensor, b: Tensor, data: tuple[bool, bool] = (True, False)) -> Tensor:
    """The adjoint of ``a @ b`` towards the operand that carries data; leading dimensions as in forward."""
    if data[0]:
        if b.ndim == 1:
            return estimate.unsqueeze(-1) * b
        return estimate @ b.mT
    if a.ndim == 1:
        return a.unsqueeze(-1) * estimate.unsqueeze(-2)
    return a.mT @ estimate if b.ndim > 1 else a.mT @ estimate.unsqueeze(-1)


for _op in (aten.matmul.default, aten.mm.default, aten.bmm.default):
    register_reverse(_op, matmul_adjoint, layer="linear", operands=1)
