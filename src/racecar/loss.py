"""The racecar loss of one layer (the summand of Eq. 1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]


def half_squared_distance(
    forward: Tensor, reverse: Tensor, reduction: Reduction = "mean", known: Tensor | None = None
) -> Tensor:
    """½‖L_m − L'_m‖², without its λ_m.

    Args:
        forward: L_m, any shape.
        reverse: L'_m, the same shape.
        reduction: ``"sum"`` over batch and units, as the paper's λ need (TensorFlow's ``l2_loss``); ``"mean"`` per
            element, independent of batch and layer size.
        known: which entries of L'_m are known, a bool tensor that broadcasts; the others take no part. None: all.

    Returns:
        A scalar in at least single precision.
    """
    difference = forward - reverse
    if difference.dtype in (torch.float16, torch.bfloat16):
        difference = difference.float()
    if known is not None:
        difference = torch.where(known, difference, 0)
    squared = difference.square()
    if reduction == "sum":
        return 0.5 * squared.sum()
    if known is None:
        return 0.5 * squared.mean()
    return 0.5 * squared.sum() / (known.sum() * (squared.numel() // known.numel()))
