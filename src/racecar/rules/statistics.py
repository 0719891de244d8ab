"""Norms and deviations of a value: of what they are taken of, the direction is the forward one, the size the estimate.

As a maximum is handed to every place, so is a scale: x̂ = x · ŷ / ‖x‖ has the estimated norm, and
x̂ = mean + (x − mean) · ŷ / std the estimated deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from racecar.rules.pooling import mean_spread
from racecar.rules.registry import ReverseCall, register_reverse

aten = torch.ops.aten


def _over(op: torch._ops.OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """(the dimensions that a statistic goes over, None: all; whether they are kept), from the arguments after x."""
    names = [a.name for a in op._schema.arguments[1:] if not a.kwarg_only]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    dim = given.get("dim")
    return [dim] if isinstance(dim, int) else dim or None, bool(given.get("keepdim", False))


def _ratio(estimate: Tensor, forward: Tensor) -> Tensor:
    """A scale that is estimated over the forward one; it cannot be negative."""
    return estimate.clamp(min=0) / forward.clamp(min=torch.finfo(forward.dtype).tiny ** 0.5)


def norm_back(op: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """The rule of a vector norm of any order."""

    def back(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dim, keepdim = _over(op, args, kwargs)
        return x * mean_spread(_ratio(estimate, op(x, *args, **kwargs)), x, dim, keepdim).to(x.dtype)

    return _named(back, op)


def deviation_back(op: torch._ops.OpOverload, squared: bool, with_mean: bool) -> Callable[..., Tensor]:
    """The rule of a standard deviation or (``squared``) a variance, alone or with the mean as a second output."""

    def back(estimate: Any, x: Tensor, *args: Any, context: ReverseCall, **kwargs: Any) -> Tensor:
        dim, keepdim = _over(op, args, kwargs)
        forward = op(x, *args, **kwargs)
        scale, mean = forward if with_mean else (forward, x.mean(dim or list(range(x.ndim)), keepdim))
        new_scale, new_mean = estimate if with_mean else (estimate, mean)
        if with_mean:  # of the one that is not known stands the forward value
            pairs = zip(context.known, (new_scale, new_mean), (scale, mean), strict=True)
            new_scale, new_mean = (e if known is None else torch.where(known, e, f) for known, e, f in pairs)
        ratio = _ratio(new_scale, scale)
        if squared:
            ratio = ratio.clamp(min=torch.finfo(ratio.dtype).eps).sqrt()
        spread = [mean_spread(t, x, dim, keepdim) for t in (ratio, mean, new_mean)]
        return spread[2] + (x - spread[1]) * spread[0]

    return _named(back, op)


def statistic_informs(op: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """A value is known where its statistic is, or one of them."""

    def informs(estimate: Any, x: Tensor, *args: Any, context: ReverseCall | None = None, **kwargs: Any) -> Tensor:
        known = estimate[0] + estimate[1] if isinstance(estimate, list | tuple) else estimate
        return mean_spread(known, x, *_over(op, args, kwargs))

    return informs


def _named(function: Callable[..., Tensor], op: torch._ops.OpOverload) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = f"{op._opname}_{op._overloadname}_back"
    return function


for _op in (
    *(aten.linalg_vector_norm.default, aten.norm.Scalar, aten.norm.ScalarOpt_dim),
    *(aten.norm.ScalarOpt_dim_dtype, aten.norm.ScalarOpt_dtype),
):
    register_reverse(_op, norm_back(_op), informs=statistic_informs(_op))
for _packet, _squared, _with_mean in (
    (aten.std, False, False),
    (aten.var, True, False),
    (aten.std_mean, False, True),
    (aten.var_mean, True, True),
):
    for _op in (_packet.default, _packet.dim, _packet.correction):
        register_reverse(_op, deviation_back(_op, _squared, _with_mean), informs=statistic_informs(_op), context=True)
