"""Creators: operations whose result holds no value of their argument's, so that no estimate comes back through them."""

from __future__ import annotations

import torch

aten = torch.ops.aten

_OF_A_SHAPE = (
    *(aten.new_empty, aten.new_full, aten.new_ones, aten.new_zeros),
    *(aten.empty_like, aten.full_like, aten.ones_like, aten.zeros_like),
    *(aten.rand_like, aten.randn_like, aten.randint_like),
)

# Read nothing of their argument but shape, dtype and device. The last two write a number over a whole value.
CREATORS = frozenset(
    getattr(packet, name) for packet in _OF_A_SHAPE for name in packet.overloads() if not name.endswith("out")
) | {aten.fill.Scalar, aten.zero.default}

# Take the values of their first argument alone, of the second its shape or type.
LIKE_ANOTHER = frozenset(
    {
        *(aten.expand_as.default, aten.view_as.default, aten.reshape_as.default),
        *(aten.type_as.default, aten.to.other),
    }
)

# Make zeros: an initial state that comes from one of these is the default.
ZEROS = frozenset({aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default, aten.zero.default})
