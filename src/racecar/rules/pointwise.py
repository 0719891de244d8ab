"""What norms and activations are spelled out in: functions entry by entry, and the statistics that norms divide by.

:mod:`racecar.forward.products` follows them from a product back to the one value that it is a function of.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten

# The larger or smaller of two values: with a constant, or with a function of the same value, an activation.
EXTREMA = frozenset({aten.maximum.default, aten.minimum.default, aten.fmax.default, aten.fmin.default})

# One of two values, or a value and a constant, by a condition: leaky ReLU as where(x > 0, x, 0.1 * x).
CHOICES = frozenset(
    {
        *(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf),
        *(aten.masked_fill.Scalar, aten.masked_fill.Tensor),
    }
)

# Conditions that such a choice hangs on.
CONDITIONS = frozenset(
    {
        *(aten.gt.Scalar, aten.gt.Tensor, aten.ge.Scalar, aten.ge.Tensor, aten.lt.Scalar, aten.lt.Tensor),
        *(aten.le.Scalar, aten.le.Tensor, aten.eq.Scalar, aten.eq.Tensor, aten.ne.Scalar, aten.ne.Tensor),
        *(aten.logical_and.default, aten.logical_or.default, aten.logical_xor.default, aten.logical_not.default),
        *(aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.bitwise_xor.Tensor, aten.bitwise_not.default),
        *(aten.__and__.Tensor, aten.__or__.Tensor, aten.__xor__.Tensor, aten.isnan.default, aten.isfinite.default),
    }
)

# Functions of two arguments that are no sum or product: without a rule of their own, an activation of the one value
# that their arguments are functions of.
FUNCTIONS = frozenset(
    {
        *(aten.pow.Tensor_Tensor, aten.pow.Scalar),
        *(aten.atan2.default, aten.copysign.Tensor),
        *(aten.logaddexp.default, aten.logaddexp2.default, aten.xlogy.Tensor, aten.xlogy.Scalar_Self),
        *(aten.fmod.Tensor, aten.remainder.Tensor, aten.remainder.Scalar_Tensor),
        *(aten.div.Tensor_mode, aten.where.Scalar),
    }
)

# Each entry of the result depends on the same entry of every argument alone.
POINTWISE = (
    frozenset(
        {
            *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.mul.Tensor),
            *(aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.reciprocal.default),
            *(aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.square.default, aten.exp.default),
            *(aten.tanh.default, aten.sigmoid.default, aten.erf.default, aten.relu.default, aten.softplus.default),
            *(aten.hardsigmoid.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default),
            *(aten.clamp_min.Tensor, aten.clamp_max.Tensor, aten.clone.default),
            *(aten.clamp_max.default, aten.abs.default, aten.to.dtype, aten._to_copy.default, aten.detach.default),
            *(aten.log.default, aten.log1p.default, aten.log2.default, aten.log10.default, aten.logit.default),
            *(aten.exp2.default, aten.expm1.default, aten.erfc.default, aten.log_sigmoid.default),
            *(aten.sin.default, aten.cos.default, aten.tan.default, aten.sinh.default, aten.cosh.default),
            *(aten.asin.default, aten.acos.default, aten.atan.default, aten.asinh.default, aten.atanh.default),
            *(aten.elu.default, aten.gelu.default, aten.silu.default, aten.leaky_relu.default, aten.relu6.default),
            *(aten.sign.default, aten.round.default, aten.floor.default, aten.ceil.default, aten.trunc.default),
            *(aten.nan_to_num.default, aten.addcmul.default, aten.addcdiv.default),
        }
    )
    | EXTREMA
    | CHOICES
    | CONDITIONS
    | FUNCTIONS
)

# Mean, variance and norm over some dimensions, and what repeats them to the size of the value they were taken of.
STATISTICS = frozenset(
    {
        *(aten.mean.dim, aten.sum.dim_IntList, aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim),
        *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.expand.default, aten.expand_as.default),
    }
)

# The last operation of a norm or activation spelled out: x * sigmoid(x), x / rms(x), x - mean(x), where(x > 0, x, 0).
LAST_OF_SPELLED_OUT = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor}) | EXTREMA | CHOICES
