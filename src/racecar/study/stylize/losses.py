"""Equations 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Features = Mapping[str, Tensor]  # per layer t, F^t as [1, N_t, h, w]: N_t filters at M_t = h · w positions


def content_loss(p: Tensor, g: Tensor) -> Tensor:
    """L_content of Eq. 3 at one layer: ½ Σ (F_p - F_g)².

    Args:
        p, g: features of the content picture and of the generated one, of the same shape.
    """
    return 0.5 * (p - g).square().sum()


def gram(features: Tensor) -> Tensor:
    """G of Eq. 4 over the number of positions: Σ_f F^{m,f} F^{n,f} / M.

    Args:
        features: [1, N, h, w].

    Returns:
        [N, N].
    """
    flat = features[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def style_energy(a: Tensor, g: Tensor) -> Tensor:
    """E_t of Eq. 4: 1 / (4 N²) Σ (G_g / M_g - G_a / M_a)².

    This is the paper's 1 / (4 N² M²) Σ (G_g - G_a)² where both pictures have the same number of positions M, and does
    not depend on their sizes where they differ.

    Args:
        a, g: :func:`gram` of the style picture and of the generated one, [N, N].
    """
    return (g - a).square().sum() / (4 * len(g) ** 2)


def style_loss(a: Mapping[str, Tensor], g: Features, weights: Mapping[str, float]) -> Tensor:
    """L_style of Eq. 4: Σ_t ω_t E_t.

    Args:
        a: per layer, :func:`gram` of the style picture.
        g: features of the generated picture.
        weights: ω per layer.
    """
    return torch.stack([w * style_energy(a[t], gram(g[t])) for t, w in weights.items()]).sum()
