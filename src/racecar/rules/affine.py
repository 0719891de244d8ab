"""Operations that are linear in their data, up to a constant, and whose rule is the adjoint.

:mod:`racecar.forward.sums` finds sums of branches of such operations, :mod:`racecar.reverse.sums` reverses them.
"""

from __future__ import annotations

import torch

from racecar.rules.identity import CASTS
from racecar.rules.reshapes import RESHAPES, SQUEEZES

aten = torch.ops.aten

ADDITIONS = frozenset({aten.add.Tensor, aten.sub.Tensor})

# Layers whose bias is one number per channel, and what is behind the channels are positions.
PER_CHANNEL = frozenset(
    {
        *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
        *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
        *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
    }
)
# Layers with a bias → its position among the arguments.
BIAS = {
    aten.linear.default: 2,
    aten.bilinear.default: 3,
    **dict.fromkeys(PER_CHANNEL, 2),
}
# beta·bias + product.
ADDED_TO = frozenset({aten.addmm.default, aten.baddbmm.default})
PRODUCTS = frozenset(
    {
        *(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.einsum.default),
        *(aten.mul.Tensor, aten.mul.Scalar, aten.neg.default),
    }
)
# Linear in their first operand alone.
NUMERATOR_FIRST = frozenset({aten.div.Tensor, aten.div.Scalar})
# Rules that are the adjoint of what they reverse, since no value is dropped or repeated.
MOVES = frozenset(
    {
        *(RESHAPES | SQUEEZES | CASTS),
        *(aten.permute.default, aten.transpose.int, aten.swapaxes.default, aten.swapdims.default, aten.t.default),
        *(aten.numpy_T.default, aten.mT.default, aten.movedim.int, aten.movedim.intlist, aten.roll.default),
        *(aten.flip.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
    }
)
