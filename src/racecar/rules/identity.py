"""Operations that the reverse pass walks past: dropout and everything that only copies, casts or renames."""

from __future__ import annotations

import torch
from torch import Tensor

from racecar.rules.arithmetic import real_as
from racecar.rules.registry import register_reverse, unchanged

aten = torch.ops.aten

DROPOUTS = frozenset(
    {
        *(aten.dropout.default, aten.feature_dropout.default),
        *(aten.alpha_dropout.default, aten.feature_alpha_dropout.default),
    }
)
# These return the tensor that they got where there is nothing to do.
SAME_TENSOR = frozenset({aten.contiguous.default, aten.resolve_conj.default, aten.resolve_neg.default})

for _op in (
    *(DROPOUTS | SAME_TENSOR),
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.positive.default,
):
    register_reverse(_op, unchanged, range="through")


def drop(x: Tensor, noise: Tensor) -> Tensor:
    """A product with random numbers: stochastic depth and the like (see :mod:`racecar.forward.products`)."""
    return x * noise


register_reverse(drop, unchanged, range="through")


def cast_back(estimate: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The estimate in the dtype and on the device of the forward input."""
    return real_as(estimate, x).to(device=x.device, dtype=x.dtype)


CASTS = frozenset(
    {
        *(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other),
        *(aten._to_copy.default, aten.type_as.default),
    }
)
for _op in CASTS:
    register_reverse(_op, cast_back, range="within")
