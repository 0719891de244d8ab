"""Sums, differences and scalings. A sum of two activations hands its estimate to both; what does not depend on the
network's input is a bias (subtracted) or a coefficient (the adjoint multiplies by it once more, conjugated).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten


def conjugate(value: Any) -> Any:
    """The complex conjugate of a tensor or a number; a real one itself."""
    if isinstance(value, Tensor):
        return value.conj()
    return value.conjugate() if isinstance(value, complex) else value


def real_as(estimate: Tensor, x: Tensor) -> Tensor:
    """The estimate of a real tensor that was taken as a complex one: its real part (the adjoint)."""
    return estimate.real if estimate.is_complex() and not x.is_complex() else estimate


def mean_to(estimate: Tensor, x: Tensor, known: Tensor | None = None) -> Tensor:
    """Undo broadcasting: an operand that was repeated is estimated by the mean over its copies that are known."""
    estimate = real_as(estimate, x)
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
    """The adjoint of broadcasting, and of taking a real tensor as a complex one."""
    estimate = real_as(estimate, x)
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
    """Scaling by a coefficient or gate: linear, so the adjoint multiplies by the same coefficient, conjugated."""
    if context.estimated[0] and isinstance(a, Tensor):
        return _sum_to(estimate * conjugate(b), a)
    return _sum_to(estimate * conjugate(a), b)


def div_back(estimate: Tensor, a: Tensor, b: Any, *, context: ReverseCall) -> Tensor:
    """Scaling by 1/b: the adjoint divides by the same coefficient, conjugated."""
    refuse_data_as_weights(context.estimated[0])
    return _sum_to(estimate / conjugate(b), a)


def addcmul_back(
    estimate: Tensor, bias: Tensor, a: Tensor, b: Tensor, *, value: float = 1, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """bias + value·a·b with a gate b or a: the bias subtracted, then the adjoint of the scaling.

    A summand that is an activation gets the estimate itself (residual).
    """
    return _scaled_and_added(estimate, bias, a, b, value, context)


def addcdiv_back(
    estimate: Tensor, bias: Tensor, a: Tensor, b: Tensor, *, value: float = 1, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """bias + value·a/b: the bias subtracted, then the adjoint of the scaling, as for addcmul."""
    refuse_data_as_weights(not context.estimated[2])
    return _scaled_and_added(estimate, bias, a, 1 / b, value, context)


def _scaled_and_added(
    estimate: Tensor, bias: Tensor, a: Tensor, b: Tensor, value: float, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    added, left, right = context.estimated
    rest = estimate if added else zero_unknown(estimate - bias, context.known[0])
    return (
        mean_to(estimate, bias, context.known[0]) if added else None,
        _sum_to(rest * conjugate(value) * b.conj(), a) if left else None,
        _sum_to(rest * conjugate(value) * a.conj(), b) if right and not left else None,
    )


def lerp_back(estimate: Tensor, a: Tensor, b: Tensor, weight: Any, *, context: ReverseCall) -> Any:
    """a + weight·(b - a), a sum of a·(1 - weight) and b·weight: each by the adjoint of its scaling."""
    shares = (1 - weight, weight)
    first, second = context.estimated[:2]
    left = estimate if second else zero_unknown(estimate - shares[1] * b, context.known[0])
    right = estimate if first else zero_unknown(estimate - shares[0] * a, context.known[0])
    return (
        _sum_to(left * conjugate(shares[0]), a) if first else None,
        _sum_to(right * conjugate(shares[1]), b) if second else None,
    )


def glu_back(estimate: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    """(…, n, …) → (…, 2n, …): to the value the estimate times its forward gate; the gate is not known."""
    value, gate = x.chunk(2, dim)
    return torch.cat((estimate * gate.sigmoid(), torch.zeros_like(value)), dim)


def cumsum_back(estimate: Tensor, x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Running sums: their differences (the inverse)."""
    return (estimate - _before(estimate, dim, 0)).to(x.dtype)


def cumsum_informs(estimate: Tensor, x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """A summand is known where the sums up to it and before it are."""
    return estimate * _before(estimate, dim, 1)


def _before(estimate: Tensor, dim: int, first: int) -> Tensor:
    """Every entry's predecessor along a dimension; the first has a number instead."""
    if estimate.ndim == 0:
        return torch.full_like(estimate, first)
    head = torch.full_like(estimate.narrow(dim, 0, 1), first)
    return torch.cat((head, estimate.narrow(dim, 0, estimate.shape[dim] - 1)), dim)


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
register_reverse(aten.glu.default, glu_back, partial=True)
register_reverse(aten.cumsum.default, cumsum_back, informs=cumsum_informs)
register_reverse(aten.addcmul.default, addcmul_back, context=True)
register_reverse(aten.addcdiv.default, addcdiv_back, context=True)
for _op in (aten.lerp.Scalar, aten.lerp.Tensor):
    register_reverse(_op, lerp_back, context=True)
