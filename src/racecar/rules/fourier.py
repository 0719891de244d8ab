"""Fourier transforms: the inverse transform, which for ``norm="ortho"`` is the adjoint too.

An estimate of which some frequencies are known gives an estimate of the whole signal, from those alone, as a layer of
which some outputs are known does. What a transform cropped off (``n`` smaller than the signal) is unknown; what it
padded is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.arithmetic import real_as
from racecar.rules.registry import register_reverse

aten = torch.ops.aten


@dataclass(frozen=True)
class Fourier:
    """A transform.

    Attributes:
        inverse: the inverse transform over several dimensions.
        half: of a real signal half the frequencies are kept: of the transform's ``"output"`` or ``"input"``; else None.
        dims: what it goes over if nothing is said; None: all.
    """

    inverse: Callable[..., Tensor]
    half: Literal["output", "input"] | None = None
    dims: int | Sequence[int] | None = -1

    def over(self, x: Tensor, s: Any, dim: Any) -> tuple[list[int], list[int]]:
        """The dimensions it goes over and the sizes of the signal, from the arguments of the call."""
        sizes = [s] if isinstance(s, int) else s
        dims = [dim] if isinstance(dim, int) else dim
        if dims is None:
            dims = range(x.ndim) if sizes is None else range(x.ndim - len(sizes), x.ndim)
        there = [x.shape[d] for d in dims]
        if sizes is None and self.half == "input":
            there[-1] = 2 * (there[-1] - 1)
        return list(dims), there if sizes is None else [t if n == -1 else n for t, n in zip(there, sizes, strict=True)]

    def back(self, estimate: Tensor, x: Tensor, s: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """The reverse rule: the inverse, at the forward input's size."""
        dim, norm = _rest(self.dims, *args, **kwargs)
        dims, sizes = self.over(x, s, dim)
        signal = self.inverse(estimate, sizes if self.half == "output" else None, dims, norm=norm)
        return _sized(real_as(signal, x), x.shape)

    def informs(self, estimate: Tensor, x: Tensor, s: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """Known where any frequency is, up to what the transform cropped off."""
        dims, sizes = self.over(x, s, _rest(self.dims, *args, **kwargs)[0])
        if self.half == "input":
            sizes[-1] = sizes[-1] // 2 + 1
        shape = list(x.shape)
        for d, size in zip(dims, sizes, strict=True):
            shape[d] = min(shape[d], size)
        return _sized((estimate != 0).amax(dims, keepdim=True).to(torch.float64).expand(shape), x.shape)


def _rest(default: Any, dim: Any = None, norm: str | None = None) -> tuple[Any, str | None]:
    return (default if dim is None else dim), norm


def _sized(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Cropped, or padded with zeros, at the end of every dimension."""
    if value.shape == torch.Size(shape):
        return value
    pads = [[0, b - a] for a, b in zip(value.shape, shape, strict=True)]
    return F.pad(value, [p for pair in reversed(pads) for p in pair])


_LAST_TWO = (-2, -1)
FOURIER = {
    aten.fft_fft.default: Fourier(torch.fft.ifftn),
    aten.fft_ifft.default: Fourier(torch.fft.fftn),
    aten.fft_rfft.default: Fourier(torch.fft.irfftn, "output"),
    aten.fft_irfft.default: Fourier(torch.fft.rfftn, "input"),
    aten.fft_ihfft.default: Fourier(torch.fft.hfftn, "output"),
    aten.fft_hfft.default: Fourier(torch.fft.ihfftn, "input"),
    aten.fft_fft2.default: Fourier(torch.fft.ifftn, None, _LAST_TWO),
    aten.fft_ifft2.default: Fourier(torch.fft.fftn, None, _LAST_TWO),
    aten.fft_rfft2.default: Fourier(torch.fft.irfftn, "output", _LAST_TWO),
    aten.fft_irfft2.default: Fourier(torch.fft.rfftn, "input", _LAST_TWO),
    aten.fft_fftn.default: Fourier(torch.fft.ifftn, None, None),
    aten.fft_ifftn.default: Fourier(torch.fft.fftn, None, None),
    aten.fft_rfftn.default: Fourier(torch.fft.irfftn, "output", None),
    aten.fft_irfftn.default: Fourier(torch.fft.rfftn, "input", None),
}


def _named(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """A function of its own: a graph calls it by its name."""

    def rule(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    rule.__name__ = rule.__qualname__ = name
    return rule


def shift_back(estimate: Tensor, x: Tensor, dim: Sequence[int] | None = None) -> Tensor:
    """``fftshift`` undone."""
    return torch.fft.ifftshift(estimate, dim)


def shift_forth(estimate: Tensor, x: Tensor, dim: Sequence[int] | None = None) -> Tensor:
    """``ifftshift`` undone."""
    return torch.fft.fftshift(estimate, dim)


register_reverse(aten.fft_fftshift.default, shift_back, range="within")
register_reverse(aten.fft_ifftshift.default, shift_forth, range="within")
for _op, _transform in FOURIER.items():
    _rule = _named(_transform.back, f"{_transform.inverse.__name__.removeprefix('fft_')}_back")
    register_reverse(_op, _rule, informs=_transform.informs)
