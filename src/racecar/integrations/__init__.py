"""Racecar training in other people's training loops, and its models on their hub: one file per framework.

Nothing here is imported by ``import racecar``; the ``[frameworks]`` extra brings what these files need.
"""

from __future__ import annotations

import warnings

from racecar.module import Racecar


def penalty_scale(rr: Racecar, processes: int, steps: int = 1) -> int:
    """What the penalty is multiplied by where a loop averages gradients over processes and accumulated steps.

    The average of equal parts' means is the mean of the whole, but that of their sums is only a part of its sum.

    Example:
        >>> import torch, racecar
        >>> from racecar.integrations import penalty_scale
        >>> rr = racecar.Racecar(torch.nn.Linear(3, 2), torch.rand(4, 3), reduction="sum")
        >>> penalty_scale(rr, processes=8, steps=2)
        16
    """
    return processes * steps if rr.options.reduction == "sum" else 1


def __getattr__(name: str) -> object:
    if name == "share":
        warnings.warn("racecar.integrations.share is penalty_scale now", DeprecationWarning, stacklevel=2)
        return penalty_scale
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
