"""A gradient reduced to a few numbers: enough to find a difference, a few thousandths of its memory.

All gradients of a model are as large as its weights. To compare those of two runs, each is reduced when it comes: its
entries, in blocks, are summed with random signs, several times over. If the largest difference of two gradients is δ,
such a sum of its block differs by at least δ for at least every second choice of signs (for those that differ in the
sign of that entry alone, it does for one of the two), so that all of them agree in one of 2^16 cases at most.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK, _CHOICES = 4096, 16
_AT_ONCE = 16 * _BLOCK  # entries: what is held in double precision; small, or freed memory lies in pieces


@dataclass(frozen=True)
class Sketch:
    """What is kept of a gradient.

    Attributes:
        sums: with random signs, of the finite entries, [blocks, 16].
        odd: the same of what tells NaN, ∞, −∞ and numbers apart.
        largest: the largest magnitude among the entries that are finite.
        dtype: of the gradient.
    """

    sums: Tensor
    odd: Tensor
    largest: float
    dtype: torch.dtype

    def __add__(self, other: Sketch) -> Sketch:
        """Of the sum of two gradients, its ``largest`` at most."""
        return Sketch(self.sums + other.sums, self.odd + other.odd, self.largest + other.largest, self.dtype)

    def zero(self) -> bool:
        """Whether the gradient is zero everywhere."""
        return not self.largest and not bool(self.odd.any())

    def may_differ(self, other: Sketch, tolerance: float) -> bool:
        """Whether some entry may differ by more than the tolerance; if one does, this says so but once in 65000."""
        if self.sums.shape != other.sums.shape or self.dtype != other.dtype or not torch.equal(self.odd, other.odd):
            return True
        # A fourth: rounding before the sums must not hide what is just too much.
        return not bool(((self.sums - other.sums).abs() <= tolerance / 4).all())


def sketch(gradient: Tensor) -> Sketch:
    """Reduce a gradient; it can be freed then."""
    dtype = gradient.dtype
    gradient = gradient.detach()
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    flat = gradient.reshape(-1)
    signs = _signs(str(flat.device))
    sums, odd, largest = [], [], 0.0
    for start in range(0, flat.numel(), _AT_ONCE):
        part = flat[start : start + _AT_ONCE].double()
        kinds: Tensor | None = None
        most = max(abs(float(end)) for end in torch.aminmax(part))  # NaN if either is
        if not math.isfinite(most):
            kinds = part.isnan().double() + 2 * part.isposinf().double() + 4 * part.isneginf().double()
            part = part.nan_to_num(0.0, 0.0, 0.0)
            most = float(part.abs().max())
        largest = max(largest, most)
        came = _signed(part, signs)
        sums.append(came)
        odd.append(torch.zeros_like(came) if kinds is None else _signed(kinds, signs))
    return Sketch(torch.cat([signs[:0], *sums]), torch.cat([signs[:0], *odd]), largest, dtype)


def _signed(part: Tensor, signs: Tensor) -> Tensor:
    """Sums over blocks, the last of which may be shorter."""
    whole = part.numel() // _BLOCK * _BLOCK
    blocks, rest = part[:whole].view(-1, _BLOCK), part[None, whole:]
    return torch.cat([_product(blocks, signs), _product(rest, signs[: part.numel() - whole])])


def _product(values: Tensor, signs: Tensor) -> Tensor:
    if values.device.type == "cpu":
        return values @ signs
    return (values[..., None] * signs).sum(1)  # cuBLAS may not be deterministic, which a user can have forbidden


@functools.cache
def _signs(device: str) -> Tensor:
    bits = torch.randint(2, (_BLOCK, _CHOICES), generator=torch.Generator().manual_seed(0))
    return (2 * bits - 1).double().to(device)
