"""Operations that are another one by another name, or one case of it: the graph calls that one, which has the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from racecar.rules.deformable import deform_conv2d
from racecar.rules.linear import grouped_mm
from racecar.rules.spectrogram import istft

aten = torch.ops.aten

_NAMES = {
    **{f"arc{name}": f"a{name}" for name in ("cos", "cosh", "sin", "sinh", "tan", "tan2", "tanh")},
    **{f"special_{n}": n for n in ("erf", "erfc", "erfinv", "exp2", "expm1", "log1p", "logit", "sinc")},
    **{"special_expit": "sigmoid", "special_xlogy": "xlogy", "special_logsumexp": "logsumexp"},
    **{"absolute": "abs", "negative": "neg", "fix": "trunc", "clip": "clamp"},
    **{"multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub"},
    **{"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne"},
    **{"concat": "cat", "concatenate": "cat", "moveaxis": "movedim", "linalg_matmul": "matmul"},
}

# The same arguments in the same order.
ALIASES: dict[Callable[..., Any], Callable[..., Any]] = {
    **{
        getattr(getattr(aten, alias), overload): getattr(getattr(aten, name), overload)
        for alias, name in _NAMES.items()
        for overload in getattr(aten, alias).overloads()
        if overload in getattr(aten, name).overloads() and "out" not in overload and "names" not in overload
    },
    aten.max.other: aten.maximum.default,
    aten.min.other: aten.minimum.default,
    aten.unsafe_chunk.default: aten.chunk.default,
    aten.unsafe_split.Tensor: aten.split.Tensor,
    aten.unsafe_split_with_sizes.default: aten.split_with_sizes.default,
}

# Operations of libraries that need not be there, and one that looks at values, by their names in torch.ops → functions
# of the same arguments.
BY_NAME: dict[str, Callable[..., Any]] = {
    "aten::istft": istft,
    "torchvision::deform_conv2d": deform_conv2d,
    "transformers::grouped_mm_fallback": grouped_mm,
}

# Put tensors side by side → along which dimension, if they have so many dimensions at least.
STACKS: dict[Callable[..., Any], tuple[int, int]] = {
    aten.hstack.default: (1, 2),
    aten.vstack.default: (0, 2),
    aten.dstack.default: (2, 3),
    aten.column_stack.default: (1, 2),
}
