"""Entry by entry one of several values: where, masked_fill, maximum. The estimate goes to the one that was chosen.

What the forward pass did not choose or overwrote is known to no rule. Where the choice is a constant of the model it is
unknown, and masked out of the loss. Where the choice differs from call to call (it depends on the network's input, on
parameters or on random numbers), no mask can say so: there the estimate is the forward value itself, which adds nothing
to the distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from racecar.rules.arithmetic import mean_to, real_as
from racecar.rules.registry import ReverseCall, register_reverse

aten = torch.ops.aten


def where_chosen(estimate: Tensor, x: Tensor, chosen: Tensor, known: Tensor | None, varies: bool) -> Tensor:
    """The estimate of an operand where it was chosen, the mean over its chosen copies if it was broadcast.

    Args:
        estimate: of the result.
        x: the operand.
        chosen: which entries of the result are the operand's, bool, broadcasts to the estimate.
        known: which entries of the estimate are.
        varies: whether the choice may differ from call to call: elsewhere stands the forward value, else 0 (unknown).
    """
    taken = chosen if known is None else chosen & known
    if x.shape == estimate.shape:
        picked, some = real_as(estimate, x), taken
    else:
        picked = mean_to(estimate, x, taken)
        some = mean_to(taken.expand(estimate.shape).to(picked.real.dtype), x) > 0
    return torch.where(some, picked.to(x.dtype), x if varies else 0)


def where_back(
    estimate: Tensor, condition: Tensor, a: Any, b: Any, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """``where(condition, a, b)``: to a where the condition holds, to b elsewhere."""
    holds, known, varies = condition.bool(), context.known[0], context.changes(0)
    chosen = [(x, c) for x, c in ((a, holds), (b, ~holds)) if isinstance(x, Tensor)]
    return None, *[where_chosen(estimate, x, c, known, varies) for x, c in chosen]


def where_informs(estimate: Tensor, condition: Tensor, a: Any, b: Any, *, context: ReverseCall) -> Any:
    """As the rule where the condition is a constant; else every entry that is known comes back or is forward's own."""
    if not context.changes(0):
        return where_back(estimate, condition, a, b, context=context)
    return None, *[mean_to(estimate, x) for x in (a, b) if isinstance(x, Tensor)]


for _op in (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
    register_reverse(_op, where_back, range="within", partial=True, informs=where_informs, context=True)


def masked_fill_back(
    estimate: Tensor, x: Tensor, mask: Tensor, value: Any, *, context: ReverseCall
) -> tuple[Tensor | None, ...]:
    """What was not filled comes back, and to a value that is an activation the mean of what was."""
    filled, known, varies = mask.bool(), context.known[0], context.changes(1)
    return (
        where_chosen(estimate, x, ~filled, known, varies),
        None,
        *[where_chosen(estimate, v, filled, known, varies) for v in (value,) if isinstance(v, Tensor)],
    )


def masked_fill_informs(estimate: Tensor, x: Tensor, mask: Tensor, value: Any, *, context: ReverseCall) -> Any:
    """As the rule where the mask is a constant; else every entry that is known comes back or is forward's own."""
    if not context.changes(1):
        return masked_fill_back(estimate, x, mask, value, context=context)
    return mean_to(estimate, x), None, *[mean_to(estimate, v) for v in (value,) if isinstance(v, Tensor)]


for _op in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
    register_reverse(_op, masked_fill_back, range="within", partial=True, informs=masked_fill_informs, context=True)


def maximum_back(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> tuple[Tensor, Tensor]:
    """To the larger of two values; the other keeps its forward value."""
    known = context.known[0]
    return where_chosen(estimate, a, a >= b, known, True), where_chosen(estimate, b, b >= a, known, True)


def minimum_back(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> tuple[Tensor, Tensor]:
    """To the smaller of two values; the other keeps its forward value."""
    known = context.known[0]
    return where_chosen(estimate, a, a <= b, known, True), where_chosen(estimate, b, b <= a, known, True)


def extremum_informs(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> tuple[Tensor, Tensor]:
    """Every entry that is known comes back or is forward's own."""
    return mean_to(estimate, a), mean_to(estimate, b)


_EXTREMA: dict[Callable[..., Any], Callable[..., tuple[Tensor, Tensor]]] = {
    aten.maximum.default: maximum_back,
    aten.fmax.default: maximum_back,
    aten.minimum.default: minimum_back,
    aten.fmin.default: minimum_back,
}
for _extremum, _rule in _EXTREMA.items():
    register_reverse(_extremum, _rule, informs=extremum_informs, context=True)
