"""Where functions are defined: before one is applied to an estimate, the estimate is brought into its domain.

What the forward pass gives to a logarithm or a root is positive; an estimate of it need not be. Outside of the domain
it becomes the next number inside: near an open end (log at 0) that is a rounding error away from it, so that the
function stays moderate, but never beyond the forward value itself, so that a perfect estimate is left as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Domain = Callable[..., Tensor]


def _of_reals(domain: Domain) -> Domain:
    """Complex numbers have logarithms and roots everywhere."""

    @functools.wraps(domain)
    def checked(estimate: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return estimate if estimate.is_complex() else domain(estimate, *args, **kwargs)

    return checked


@_of_reals
def positive(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The domain of logarithms and roots: 0 < x."""
    about = torch.finfo(estimate.dtype)
    return estimate.clamp(min=x.detach().to(estimate.dtype).clamp(about.tiny, about.eps))


@_of_reals
def above_minus_one(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The domain of ``log1p``: -1 < x."""
    return estimate.clamp(min=torch.finfo(estimate.dtype).eps - 1)


@_of_reals
def above_one(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The domain of ``acosh``: 1 < x; its slope is infinite at 1."""
    return estimate.clamp(min=1 + torch.finfo(estimate.dtype).eps)


@_of_reals
def within_one(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The domain of ``asin`` and ``atanh``: -1 < x < 1; slope or value are infinite at the ends."""
    end = 1 - torch.finfo(estimate.dtype).eps
    return estimate.clamp(-end, end)


@_of_reals
def probability(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The domain of ``logit``: 0 < x < 1."""
    return positive(estimate, x).clamp(max=1 - torch.finfo(estimate.dtype).eps)


@_of_reals
def base_of_power(estimate: Tensor, x: Tensor, exponent: Any) -> Tensor:
    """The domain of a power: 0 < x unless the exponent is an integer."""
    if isinstance(exponent, Tensor):
        whole = exponent == exponent.round() if exponent.is_floating_point() else torch.ones_like(exponent).bool()
        return torch.where(whole, estimate, positive(estimate, x))
    return estimate if float(exponent).is_integer() else positive(estimate, x)


# Function → (position of the argument that has a domain, what brings an estimate of it there: called with the estimate
# and the forward call's arguments from that position on).
DOMAINS: dict[Callable[..., Any], tuple[int, Domain]] = {
    **dict.fromkeys(
        (
            *(aten.log.default, aten.log2.default, aten.log10.default),
            *(aten.sqrt.default, aten.rsqrt.default),
        ),
        (0, positive),
    ),
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor), (0, base_of_power)),
    **dict.fromkeys((aten.asin.default, aten.acos.default, aten.atanh.default, aten.erfinv.default), (0, within_one)),
    aten.xlogy.Tensor: (1, positive),
    aten.log1p.default: (0, above_minus_one),
    aten.acosh.default: (0, above_one),
    aten.logit.default: (0, probability),
}
