"""What norms and activations are spelled out in: functions entry by entry, and the statistics that norms divide by.

:mod:`racecar.forward.products` follows them from a product back to the one value that it is a function of.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten

# Each entry of the result depends on the same entry of every argument alone.
POINTWISE = frozenset(
    {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.mul.Tensor),
        *(aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.reciprocal.default),
        *(aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.square.default, aten.exp.default),
        *(aten.tanh.default, aten.sigmoid.default, aten.erf.default, aten.relu.default, aten.softplus.default),
        *(aten.hardsigmoid.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default),
        *(aten.abs.default, aten.log.default, aten.log1p.default, aten.to.dtype, aten._to_copy.default),
    }
)

# Mean, variance and norm over some dimensions, and what repeats them to the size of the value they were taken of.
STATISTICS = frozenset(
    {
        *(aten.mean.dim, aten.sum.dim_IntList, aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim),
        *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.expand.default, aten.expand_as.default),
    }
)

# The last operation of a norm or activation spelled out: x * sigmoid(x), x / rms(x), x - mean(x).
LAST_OF_SPELLED_OUT = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor})
