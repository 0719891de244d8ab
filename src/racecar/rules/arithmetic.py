"""Sums, differences and scalings. A sum of two activations hands its estimate to both; what does not depend on the
network's input is a bias (subtracted) or a coefficient (the adjoint multiplies by it once more).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten


def mean_to(estimate: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
    """Undo broadcasting: an operand that was repeated is estimated by the mean over its copies that are known."""
    extra = estimate.ndim - x.ndim
    dims = [
        *range(extra),
        *(d + extra for d, s in enumerate(x.shape) if s == 1 and estimate.shape[d + extra] != 1),
    ]
    if not dims:
        return estimate
    if known is None:
        return estimate.mean(dims, keepdim=True).reshape(x.shape)
    count = known.expand(estimate.shape).sum(dims, keepdim=True).clamp(min=1)
    return (zero_unknown(estimate, known).sum(dims, keepdim=True) / count).reshape(x.shape)


def _sum_to(estimate: Tensor, x: Tensor) -> Tensor:
    """The adjoint of broadcasting."""
    return estimate.sum_to_size(x.shape) if estimate.shape != x.shape else estimate


def add_back(estimate: Tensor, a: Any, b: Any, *, alpha: float = 1, context: ReverseCall) -> Any:
    """a + alpha·b: both activations get the estimate (residual); a bias is subtracted."""
    (known,) = context.known
    if context.estimated == (True, True):
        # An estimate of the sum serves as the estimate of either branch.
        return mean_to(estimate, a, known), mean_to(estimate, b, known)
    if context.estimated[0] and isinstance(a, Tensor):
        return mean_to(estimate - alpha * b, a, known)
    return mean_to((estimate - a) / alpha, b, known)


def sub_back(estimate: Tensor, a: Any, b: Any, *, alpha: float = 1, context: ReverseCall) -> Any:
    """a - alpha·b: as a sum, the second branch with its sign."""
    (known,) = context.known
    if context.estimated == (True, True):
        return mean_to(estimate, a, known), mean_to(-estimate, b, known)
    if context.estimated[0] and isinstance(a, Tensor):
        return mean_to(estimate + alpha * b, a, known)
    return mean_to((a - estimate) / alpha, b, known)


def rsub_back(estimate: Tensor, x: Tensor, other: Any, alpha: float = 1) -> Tensor:
    """other - alpha·x with a constant: solved for x."""
    return (other - estimate) / alpha


def mul_back(estimate: Tensor, a: Any, b: Any, *, context: ReverseCall) -> Tensor:
    """Scaling by a coefficient or gate: linear, so the adjoint multiplies by the same coefficient."""
    return _sum_to(estimate * b, a) if context.estimated[0] and isinstance(a, Tensor) else _sum_to(estimate * a, b)


def div_back(estimate: Tensor, a: Tensor, b: Any, *, context: ReverseCall) -> Tensor:
    """Scaling by 1/b: the adjoint divides by the same coefficient."""
    refuse_data_as_weights(context.estimated[0])
    return _sum_to(estimate / b, a)


def addcmul_back(estimate: Tensor, bias: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Any:
    """bias + value·a·b with a gate b: the bias subtracted, then the adjoint of the scaling."""
    return None, _sum_to((estimate - bias) * value * b, a), None


def neg_back(estimate: Tensor, x: Tensor) -> Tensor:
    """-x."""
    return -estimate


for _op in (aten.add.Tensor, aten.add.Scalar):
    register_reverse(_op, add_back, context=True)
for _op in (aten.sub.Tensor, aten.sub.Scalar):
    register_reverse(_op, sub_back, context=True)
for _op in (aten.rsub.Scalar, aten.rsub.Tensor):
    register_reverse(_op, rsub_back, operands=1)
for _op in (aten.mul.Tensor, aten.mul.Scalar):
    register_reverse(_op, mul_back, operands=1, context=True)
for _op in (aten.div.Tensor, aten.div.Scalar):
    register_reverse(_op, div_back, operands=1, context=True)
register_reverse(aten.neg.default, neg_back)
register_reverse(aten.addcmul.default, addcmul_back)
