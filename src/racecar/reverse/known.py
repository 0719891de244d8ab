"""Which entries of an estimate are known: what a select or a slice drops is masked out of the loss, not invented.

Knowledge depends on shapes and positions, never on values, so it is found once, at derivation, by asking every reverse
rule how it passes on ones. A mask is a bool tensor on the CPU with size 1 along every dimension in which it does not
change (so it fits any batch); None stands for "everything".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from racecar.rules.registry import zero_unknown

Known = Tensor | None


def narrowed(mask: Tensor) -> Tensor:
    """The same mask with size 1 along every dimension in which it does not change."""
    for dim in range(mask.ndim):
        first = mask.narrow(dim, 0, 1)
        if mask.shape[dim] > 1 and bool((mask == first).all()):
            mask = first
    return mask.contiguous()


def unite(masks: Sequence[Known]) -> Known:
    """Known where any of several estimates of one value is."""
    if not masks or any(m is None for m in masks):
        return None
    union = masks[0]
    for mask in masks[1:]:
        union = union | mask  # type: ignore[operator]
    assert union is not None
    return None if bool(union.all()) else narrowed(union)


def nothing(mask: Known) -> bool:
    """Whether no entry is known."""
    return mask is not None and not bool(mask.any())


def passed_on(
    reverse: Callable[..., Any], estimate: Any, known: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Known] | Known:
    """How a reverse rule passes knowledge on: an entry is known if a known entry of the estimate contributes to it.

    Args:
        reverse: the rule.
        estimate: the example of what it is given, a tensor or a list.
        known: its masks, likewise.
        args, kwargs: of the forward call, floating tensors as ones, so that nothing cancels.

    Returns:
        A mask for the estimate that the rule returns, or a list of them, one per returned estimate.
    """
    with torch.no_grad():
        ones = reverse(_as_numbers(estimate, known), *args, **kwargs)
        zeros = reverse(
            _as_numbers(estimate, [_NOWHERE] * len(known) if isinstance(known, list) else _NOWHERE), *args, **kwargs
        )
    if isinstance(ones, tuple | list):
        return [None if one is None else _mask(one != zero) for one, zero in zip(ones, zeros, strict=True)]
    return _mask(ones != zeros)


_NOWHERE = torch.zeros((), dtype=torch.bool)


def _as_numbers(estimate: Any, known: Any) -> Any:
    if isinstance(estimate, list):
        return [_as_numbers(e, k) for e, k in zip(estimate, known, strict=True)]
    if known is None:
        return torch.ones(estimate.shape, dtype=torch.float64)
    return known.expand(estimate.shape).to(torch.float64)


def _mask(mask: Tensor) -> Known:
    return None if bool(mask.all()) else narrowed(mask)


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
