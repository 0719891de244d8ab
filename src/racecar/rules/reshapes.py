"""Reshapes and other operations that may leave every value where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

# The same values in the same order, in dimensions that are split or merged.
RESHAPES = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
        *(aten.unflatten.int, aten.view_as.default, aten.reshape_as.default, aten.ravel.default),
        *(aten.atleast_1d.default, aten.atleast_2d.default, aten.atleast_3d.default),
    }
)

# Dimensions of one entry are dropped or put in.
SQUEEZES = frozenset({aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default})

# Reshapes that fail unless the value lies in memory as theirs does → the one that does the same for any.
FOR_ANY_LAYOUT: dict[object, Callable[..., Any]] = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}

# Return their argument once more if the result has its shape and strides.
UNCHANGED_IN_ITS_SHAPE = frozenset(
    {
        *(aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.slice.Tensor),
        *(aten.detach.default, aten.clone.default),
    }
)
