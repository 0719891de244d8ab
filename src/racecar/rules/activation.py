"""Pointwise activations (and softmax): nothing on the way back; the forward function maps estimates to its range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.domain import DOMAINS
from racecar.rules.registry import register_reverse, unchanged

aten = torch.ops.aten


def register_activation(op: Callable[..., Any]) -> None:
    """Register a pointwise operation: the estimate of its output is the operation applied to the estimate."""
    _, domain = DOMAINS.get(op, (0, None))

    def again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return op(estimate if domain is None else domain(estimate, x, *args, **kwargs), *args, **kwargs)

    again.__name__ = again.__qualname__ = f"{str(op).split('.')[1] if '.' in str(op) else op.__name__}_again"
    register_reverse(op, unchanged, range=again)


# Functions that torch.nn.functional writes in several operations; the exported graph is folded back to one call.
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x)."""
    return F.tanhshrink(x)


for _op in (
    aten.abs.default,
    aten.acos.default,
    aten.acosh.default,
    aten.asin.default,
    aten.asinh.default,
    aten.atan.default,
    aten.atanh.default,
    aten.ceil.default,
    aten.celu.default,
    aten.clamp.default,
    aten.clamp.Tensor,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.cos.default,
    aten.cosh.default,
    aten.elu.default,
    aten.erf.default,
    aten.erfc.default,
    aten.erfinv.default,
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.floor.default,
    aten.fmod.Scalar,
    aten.frac.default,
    aten.gelu.default,
    aten.hardshrink.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.lgamma.default,
    aten.log.default,
    aten.log10.default,
    aten.log1p.default,
    aten.log2.default,
    aten.log_sigmoid.default,
    aten.log_softmax.int,
    aten.logit.default,
    aten.mish.default,
    aten.nan_to_num.default,
    aten.pow.Tensor_Scalar,
    aten.prelu.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.remainder.Scalar,
    aten.round.decimals,
    aten.round.default,
    aten.rsqrt.default,
    aten.selu.default,
    aten.sgn.default,
    aten.sigmoid.default,
    aten.sign.default,
    aten.silu.default,
    aten.sin.default,
    aten.sinc.default,
    aten.sinh.default,
    aten.softmax.int,
    aten.softplus.default,
    aten.softshrink.default,
    aten.sqrt.default,
    aten.square.default,
    aten.tan.default,
    aten.tanh.default,
    aten.threshold.default,
    aten.trunc.default,
    softsign,
    tanhshrink,
):
    register_activation(_op)


def rrelu_again(estimate: Tensor, x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *args: object) -> Tensor:
    """The randomised leaky ReLU with its mean slope: the reverse pass draws no random numbers."""
    return F.leaky_relu(estimate, (lower + upper) / 2)


register_reverse(aten.rrelu.default, unchanged, range=rrelu_again)
