"""Fully connected operations: L = M x + b is reversed as M^T (L - b) (Section 3).

Of a complex M it is the conjugate transpose; ``conj`` of a real tensor is the tensor itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from racecar.rules.arithmetic import conjugate
from racecar.rules.attention import attended_average
from racecar.rules.registry import ReverseCall, refuse_data_as_weights, register_reverse, zero_unknown

aten = torch.ops.aten


def rows_inform(estimate: Tensor, x: Tensor, *args: object, context: ReverseCall) -> Tensor:
    """(…, out) → (…, in): every input hangs on every output of its row, which is found without the product."""
    return (estimate != 0).any(-1, keepdim=True).to(torch.float64).expand(x.shape)


@register_reverse(aten.linear.default, layer="linear", operands=1, informs=rows_inform, context=True)
def linear_adjoint(
    estimate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, context: ReverseCall
) -> Tensor:
    """(…, out) → (…, in): (y - b) W̄, over the outputs that are known."""
    refuse_data_as_weights(context.estimated[0])
    return zero_unknown(estimate if bias is None else estimate - bias, context.known[0]) @ weight.conj()


def _product(estimate: Tensor, bias: Tensor, beta: float, alpha: float, context: ReverseCall) -> Tensor:
    """Of beta·bias + alpha·product the adjoint towards the product, over what is known."""
    rest = estimate if beta == 0 else estimate - beta * bias
    return conjugate(alpha) * zero_unknown(rest, context.known[0])


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
    return _product(estimate, bias, beta, alpha, context) @ weight.mH


@register_reverse(aten.baddbmm.default, layer="linear", operands=1, context=True)
@register_reverse(aten.addbmm.default, layer="linear", operands=1, context=True)
def batched_adjoint(
    estimate: Tensor,
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """The adjoint of bias·beta + alpha·(a @ b), or of the sum over the batch of such products, towards a or b."""
    refuse_data_as_weights(not context.estimated[0])
    scaled = _product(estimate, bias, beta, alpha, context)
    return None, *((scaled @ b.mH, None) if context.estimated[1] else (None, a.mH @ scaled))


@register_reverse(aten.addmv.default, layer="linear", operands=1, context=True)
def addmv_adjoint(
    estimate: Tensor,
    bias: Tensor,
    matrix: Tensor,
    x: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """The adjoint of bias·beta + alpha·(matrix @ x) towards the matrix or x."""
    refuse_data_as_weights(not context.estimated[0])
    scaled = _product(estimate, bias, beta, alpha, context)
    if context.estimated[1]:
        return None, scaled.unsqueeze(-1) * x.conj(), None
    return None, None, matrix.mH @ scaled


@register_reverse(aten.dot.default, operands=1, context=True)
def dot_adjoint(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> tuple[Tensor | None, ...]:
    """() → (n): the other vector times the estimate."""
    return (estimate * b.conj(), None) if context.estimated[0] else (None, estimate * a.conj())


def grouped_mm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """(rows, in), (groups, in, out) → (rows, out): every group of rows by its matrix, as ``transformers`` computes it.

    Args:
        x: the rows, group after group.
        weight: a matrix per group.
        offsets: where each group ends.
    """
    return torch.ops.transformers.grouped_mm_fallback(x, weight, offsets)


def grouped_mm_adjoint(estimate: Tensor, x: Tensor, weight: Tensor, offsets: Tensor, *, context: ReverseCall) -> Tensor:
    """(rows, out) → (rows, in): every group by its matrix transposed."""
    return grouped_mm(zero_unknown(estimate, context.known[0]), weight.mT, offsets)


register_reverse(grouped_mm, grouped_mm_adjoint, layer="linear", informs=rows_inform, context=True)


@register_reverse(aten.bilinear.default, layer="linear", operands=1, context=True)
def bilinear_adjoint(
    estimate: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """(…, out) → (…, in) of one operand: a W b + bias is linear in a and in b; the other is a coefficient."""
    refuse_data_as_weights(context.estimated[0] or context.estimated[1])
    rest = zero_unknown(estimate if bias is None else estimate - bias, context.known[0])
    if context.estimated[0]:
        return torch.einsum("...o,oij,...j->...i", rest, weight.conj(), b.conj()), None
    return None, torch.einsum("...o,oij,...i->...j", rest, weight.conj(), a.conj())


@register_reverse(aten.tensordot.default, layer="linear", operands=1, context=True)
def tensordot_adjoint(
    estimate: Tensor, a: Tensor, b: Tensor, dims_a: Sequence[int], dims_b: Sequence[int], *, context: ReverseCall
) -> Tensor:
    """The adjoint towards one operand: a tensordot over what is left of the other; for attention the average."""
    left = context.estimated[0]
    mine, other, inside, across = (a, b, dims_a, dims_b) if left else (b, a, dims_b, dims_a)
    summed = {d % mine.ndim: e % other.ndim for d, e in zip(inside, across, strict=True)}
    if any(mine.shape[d] != other.shape[e] for d, e in summed.items()):
        raise NotImplementedError("tensordot over dimensions of different sizes, of which one is repeated")
    free = [d for d in range(other.ndim) if d not in summed.values()]
    here = list(range(estimate.ndim - len(free), estimate.ndim)) if left else list(range(len(free)))
    known = context.known[0]
    back = torch.tensordot(zero_unknown(estimate, known), other.conj(), (here, free))
    if context.average:
        ones = torch.ones_like(estimate) if known is None else known.expand(estimate.shape).to(estimate.dtype)
        back = back / torch.tensordot(ones, other, (here, free)).clamp(min=torch.finfo(back.dtype).tiny ** 0.5)
    # Now the free dimensions of mine, then the summed ones in the order that they have in the other.
    order = [d for d in range(mine.ndim) if d not in summed] + sorted(summed, key=summed.__getitem__)
    return back.permute([order.index(d) for d in range(mine.ndim)])


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
        return (estimate @ right.mH).sum_to_size(left.shape).reshape(a.shape)
    return (left.mH @ estimate).sum_to_size(right.shape).reshape(b.shape)


for _op in (aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default):
    register_reverse(_op, matmul_adjoint, layer="linear", operands=1, context=True)
