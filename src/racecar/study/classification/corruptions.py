"""Corrupted test images, by the library ``imagecorruptions`` where it is installed."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

SEVERITIES = (1, 3, 5)


def corrupted(pixels: Tensor, seed: int = 0) -> tuple[Tensor, list[str], list[str]]:
    """Images [N, C, H, W] in uint8, a corruption and a severity each in turn (Hendrycks & Dietterich 2019).

    Returns:
        The images, the corruptions used, and those that ``imagecorruptions`` cannot do here.

    Raises:
        ImportError: ``imagecorruptions`` is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from imagecorruptions import corrupt, get_corruption_names

        first, good, bad = pixels[0].permute(1, 2, 0).numpy(), [], []
        for name in get_corruption_names():
            try:
                corrupt(first, corruption_name=name, severity=1)
                good.append(name)
            except Exception:  # an old library beside new ones: whatever they have changed since
                bad.append(name)
        np.random.seed(seed)  # what it draws from
        made = [
            corrupt(
                p.permute(1, 2, 0).numpy(), corruption_name=good[i % len(good)], severity=SEVERITIES[i // len(good) % 3]
            )
            for i, p in enumerate(pixels)
        ]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2), good, bad
