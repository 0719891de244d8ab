"""``einsum`` of two operands: linear in each, so that the adjoint is an einsum of the same letters.

``conj`` of a real tensor is the tensor itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, register_reverse, zero_unknown

aten = torch.ops.aten


def has_adjoint(equation: str, operands: int) -> bool:
    """Whether the rule is for such an equation; others are mirrored as the operations that torch composes them of."""
    given, arrow, _ = equation.replace(" ", "").partition("->")
    once = all(len(set(letters)) == len(letters) for letters in given.split(","))
    return operands == 2 and bool(arrow) and "." not in equation and once


@register_reverse(aten.einsum.default, layer="linear", operands=1, context=True)
def einsum_adjoint(
    estimate: Tensor,
    equation: str,
    tensors: Sequence[Tensor],
    *,
    path: object = None,
    context: ReverseCall,
) -> tuple[Tensor | None, ...]:
    """The adjoint towards the one operand that is estimated; for attention weights the average."""
    places = equation.replace(" ", "").partition("->")[0].split(",")
    result = equation.replace(" ", "").partition("->")[2]
    if not has_adjoint(equation, len(tensors)):
        raise NotImplementedError(
            f"einsum {equation!r}: only two operands, each letter once in each, an explicit result"
        )
    mine, (known,) = context.estimated.index(True), context.known
    other = tensors[1 - mine].conj()
    if lost := set(places[mine]) - set(places[1 - mine]) - set(result):
        raise NotImplementedError(f"einsum {equation!r} sums {', '.join(sorted(lost))} of its data away")
    back = f"{result},{places[1 - mine]}->{places[mine]}"
    value = torch.einsum(back, zero_unknown(estimate, known), other)
    if context.average:
        ones = torch.ones_like(estimate) if known is None else known.expand(estimate.shape).to(estimate.dtype)
        value = value / torch.einsum(back, ones, other).clamp(min=torch.finfo(value.dtype).tiny ** 0.5)
    return (value, None) if mine == 0 else (None, value)
