"""How near pictures are to what they should be: L2, PSNR, a perceptual distance; and whether a run has collapsed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

COLLAPSED = 0.9  # of the variance: a run that leaves more of it unexplained has learnt nothing to speak of


def quality(output: Tensor, target: Tensor) -> dict[str, float]:
    """Distances between pictures [n, C, h, w] whose values lie between 0 and 1.

    Returns:
        ``l2``: ½ Σ of squared differences over the pixels and channels of a picture (TensorFlow's ``l2_loss``), mean
        over pictures. ``mse``: mean of squared differences. ``psnr``: −10 log₁₀ mse in dB. ``dssim``: 1 − SSIM (Wang
        et al. 2004, 11 × 11 Gaussian window), a perceptual distance that needs no network.
    """
    output, target = output.float(), target.float()
    mse = float((output - target).square().mean())
    similar = [
        torch.as_tensor(structural_similarity_index_measure(a.clamp(0, 1), b, data_range=1.0, reduction="none"))
        for a, b in zip(output.split(100), target.split(100), strict=True)
    ]
    return {
        "l2": _rounded(mse * target[0].numel() / 2),
        "mse": _rounded(mse),
        "psnr": _rounded(-10 * math.log10(max(mse, 1e-12)) if math.isfinite(mse) else -300.0),
        "dssim": _rounded(float(1 - torch.cat(similar).mean())),
    }


def constants(target: Tensor) -> dict[str, float]:
    """``l2`` of two answers that know nothing: ``black``, and ``grey``, the mean colour of the pictures."""
    mean = target.mean((0, 2, 3), keepdim=True)
    scale = target[0].numel() / 2
    return {
        "black": _rounded(float(target.square().mean()) * scale),
        "grey": _rounded(float((target - mean).square().mean()) * scale),
    }


def resemblance(regenerated: Tensor, original: Tensor) -> dict[str, float]:
    """How much of the input the reverse pass brings back (Figure 8).

    Returns:
        ``error``: mean squared difference over the variance of the original, so 1 is as good as its mean value;
        ``correlation`` over a picture's pixels, averaged, 0 where it is constant; ``psnr`` in dB.
    """
    regenerated, original = regenerated.float(), original.float()
    mse = (regenerated - original).square().mean()
    left, right = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (regenerated, original))
    return {
        "error": _rounded(float(mse / original.var())),
        "correlation": _rounded(float(torch.nn.functional.cosine_similarity(left, right).mean())),
        "psnr": _rounded(-10 * math.log10(max(float(mse), 1e-12)) if math.isfinite(float(mse)) else -300.0),
    }


def _rounded(value: float) -> float:
    """Six digits; what overflowed is a large finite number, which JSON can hold."""
    return float(f"{value:.6g}") if math.isfinite(value) and abs(value) < 1e30 else 1e30
