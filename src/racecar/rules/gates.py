"""Products of two activations: which operations they are, and which of their operands is the gate or coefficient.

:mod:`racecar.forward.products` reads them off a graph by these tables.
"""

from __future__ import annotations

import torch

from racecar.rules.deformable import deform_conv2d
from racecar.rules.linear import grouped_mm

aten = torch.ops.aten

# Layers whose data is their first argument alone: offsets, masks, places and weights of others are coefficients.
DATA_FIRST = frozenset({deform_conv2d, grouped_mm})

# Sums of products: linear in either operand.
MATRIX_PRODUCTS = frozenset(
    {aten.matmul.default, aten.bmm.default, aten.mm.default, aten.einsum.default, aten.tensordot.default}
)

# Their rows are weights that sum to 1: a product with them is an average, as in attention.
SOFTMAX = frozenset({aten.softmax.int, aten._softmax.default})

# Between 0 and 1: of sigmoid(a) * tanh(b), as recurrent cells have it, the sigmoid is the gate.
GATES = frozenset({aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int})

# Between two bounds: of tanh(a) * b the tanh is the gate.
BOUNDED = GATES | {aten.tanh.default, aten.hardtanh.default}
