"""Which entries of an estimate are known: what a select or a slice drops is masked out of the loss, not invented.

Knowledge depends on shapes and positions, never on values, so it is found once, at derivation, by asking every reverse
rule how it passes on ones. A mask is a bool tensor on the CPU with size 1 along every dimension in which it does not
change (so it fits any batch); None stands for "everything". The programs get masks as constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import zero_unknown

Known = Tensor | None


# --- masks ------------------------------------------------------------------------------------------------------------


def narrowed(mask: Tensor) -> Tensor:
    """The same mask with size 1 along every dimension in which it does not change."""
    for dim in range(mask.ndim):
        first = mask.narrow(dim, 0, 1)
        if mask.shape[dim] > 1 and bool((mask == first).all()):
            mask = first
    return mask.contiguous()


def unite(masks: Sequence[Known]) -> Known:
    """Known where any of several estimates of one value is."""
    union: Known = None
    for mask in masks:
        if mask is None:
            return None
        union = mask if union is None else union | mask
    return None if union is None or bool(union.all()) else narrowed(union)


def nothing(mask: Known) -> bool:
    """Whether no entry is known."""
    return mask is not None and not bool(mask.any())


def known_share(mask: Known) -> float:
    """The share of the entries that is known."""
    return 1.0 if mask is None else float(mask.double().mean())


# --- functions that the programs call ---------------------------------------------------------------------------------


def mean_of_known(estimates: Sequence[Tensor], known: Sequence[Tensor | None]) -> Tensor:
    """The mean over those of several estimates that are known, entry by entry; 0 where none is."""
    total: Any = 0
    count: Any = 0
    for estimate, mask in zip(estimates, known, strict=True):
        total = total + zero_unknown(estimate, mask)
        count = count + (1 if mask is None else mask.to(estimate.dtype))
    return total / count.clamp(min=1)


def unknown_as_nan(estimate: Tensor, known: Tensor) -> Tensor:
    """An estimate to look at: what is not known is NaN."""
    return torch.where(known, estimate, torch.nan)
