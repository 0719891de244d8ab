"""Complex numbers and their parts: each part comes back to its own; what is not known of a number is forward's own."""

from __future__ import annotations

import torch
from torch import Tensor

from racecar.rules.registry import ReverseCall, register_reverse

aten = torch.ops.aten


@register_reverse(aten.complex.default)
def complex_back(estimate: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """(real part, imaginary part)."""
    return estimate.real, estimate.imag


@register_reverse(aten.view_as_complex.default)
def view_as_complex_back(estimate: Tensor, x: Tensor) -> Tensor:
    """(…) → (…, 2)."""
    return torch.view_as_real(estimate.resolve_conj())


def parts(x: Tensor) -> Tensor:
    """(…) complex → (…, 2): the real and the imaginary part."""
    return torch.view_as_real(x.resolve_conj())


def parts_back(estimate: Tensor, x: Tensor, *, context: ReverseCall) -> Tensor:
    """(…, 2) → (…); a part that is not known (``x.real`` alone is used) is the forward one."""
    known = context.known[0]
    return torch.view_as_complex((estimate if known is None else torch.where(known, estimate, parts(x))).contiguous())


for _op in (parts, aten.view_as_real.default):
    register_reverse(_op, parts_back, context=True)


def modulus(x: Tensor) -> Tensor:
    """(…) complex → (…) real: |x|."""
    return x.abs()


@register_reverse(modulus)
def modulus_back(estimate: Tensor, x: Tensor) -> Tensor:
    """A number of the estimated modulus with the forward phase."""
    return estimate * x.sgn()


def conjugate_back(estimate: Tensor, x: Tensor) -> Tensor:
    """The conjugate."""
    return estimate.conj()


for _op in (aten._conj.default, aten.conj.default, aten.conj_physical.default, aten._conj_physical.default):
    register_reverse(_op, conjugate_back, range="within")

# Reads a part of a complex number → its place in the last dimension of its parts.
PARTS = {aten.real.default: 0, aten.imag.default: 1}
