"""Short-time Fourier transforms: each is the other's reverse."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.arithmetic import real_as
from racecar.rules.registry import register_reverse

aten = torch.ops.aten


def _framed(window: Tensor | None, length: int, size: int, like: Tensor) -> Tensor:
    """A window of a short-time transform in the middle of the frame of ``size``, which it is padded to with zeros."""
    values = like.real.new_ones(length) if window is None else window
    left = (size - length) // 2
    return F.pad(values, (left, size - length - left))


def stft_back(
    estimate: Tensor,
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """(…, frequencies, frames) → (…, time): the signal whose short-time spectrum is nearest (Griffin and Lim 1984).

    What no window shows keeps the forward value.
    """
    if align_to_window:
        raise NotImplementedError("stft with align_to_window=True")
    hop, length = hop_length or n_fft // 4, win_length or n_fft
    spectrum = (estimate if estimate.is_complex() else torch.view_as_complex(estimate.contiguous())).mT
    real = not x.is_complex()
    half = real if onesided is None else onesided
    norm = "ortho" if normalized else None
    frames = torch.fft.irfft(spectrum, n_fft, norm=norm) if half else torch.fft.ifft(spectrum, norm=norm)
    seen = _framed(window, length, n_fft, x)
    frames = (real_as(frames, x) * seen.conj()).to(x.dtype)
    power = (seen * seen.conj()).real.expand(frames.shape)
    total, weight = (aten.unfold_backward(t.contiguous(), x.shape, x.ndim - 1, n_fft, hop) for t in (frames, power))
    shown = weight > torch.finfo(weight.dtype).eps
    return torch.where(shown, total / torch.where(shown, weight, 1), x)


def istft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """``torch.istft``, operation by operation, without its look at the window's values, which no graph can have."""
    hop = hop_length or n_fft // 4
    spectrum = x if x.ndim == 3 else x.unsqueeze(0)
    spectrum = spectrum.mT
    size = n_fft + hop * (spectrum.shape[1] - 1)
    norm = "ortho" if normalized else None
    if return_complex:
        frames = torch.fft.ifft(spectrum, norm=norm)
    else:
        frames = torch.fft.irfft(spectrum[..., : n_fft // 2 + 1], n_fft, norm=norm)
    seen = _framed(window, win_length or n_fft, n_fft, x)
    shape = (frames.shape[0], size)
    total = aten.unfold_backward(frames * seen.view(1, 1, n_fft), shape, 1, n_fft, hop)
    power = seen.pow(2).expand(1, frames.shape[1], n_fft)
    weight = aten.unfold_backward(power, (1, size), 1, n_fft, hop)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else size - start if center else size
    signal = total[:, start:end] / weight[:, start:end]
    if length is not None and signal.shape[1] < length:
        signal = F.pad(signal, (0, length - signal.shape[1]))
    return signal if x.ndim == 3 else signal.squeeze(0)


def istft_back(
    estimate: Tensor,
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """(…, time) → (…, frequencies, frames): the short-time transform of the signal."""
    hop, frames = hop_length or n_fft // 4, x.shape[-1]
    start = n_fft // 2 if center else 0
    size = n_fft + hop * (frames - 1)
    padded = F.pad(estimate, (start, size - start - estimate.shape[-1]))
    half = x.shape[-2] != n_fft
    seen = _framed(window, win_length or n_fft, n_fft, x)
    return torch.stft(padded, n_fft, hop, n_fft, seen, False, normalized=normalized, onesided=half, return_complex=True)


def all_informs(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Known, all of it, where anything is."""
    return (estimate != 0).any().to(torch.float64).expand(x.shape)


register_reverse(aten.stft.default, stft_back, informs=all_informs)
register_reverse(istft, istft_back, informs=all_informs)
