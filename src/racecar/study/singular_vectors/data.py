"""Data in which everything is known: two classes of peaks under noise of hats, and two images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 40
CENTRES = (10, 30)  # of the peaks, by class


@dataclass(frozen=True)
class Case:
    """Data, and which of their directions a first layer is compared with.

    Attributes:
        title: for the table.
        inputs: [N, D].
        classes: [N].
        directions: [D, k].
    """

    title: str
    inputs: Tensor
    classes: Tensor
    directions: Tensor


def peaks(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Signals [count, 40] with one peak, left or right, and a hat of random place and height; classes [count].

    A peak is a Gaussian of height 1 and deviation 2 points; a hat a triangle of half width 3 and height 0 to 0.5.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    points = torch.arange(POINTS, dtype=torch.float32)
    centres = torch.tensor(CENTRES, dtype=torch.float32)[classes]
    signal = torch.exp(-0.5 * ((points - centres[:, None]) / 2) ** 2)
    places = torch.randint(3, POINTS - 3, (count, 1), generator=generator)
    heights = 0.5 * torch.rand(count, 1, generator=generator)
    hats = heights * (1 - (points - places).abs() / 3).clamp(min=0)
    return signal + hats, classes


def two_images(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The first image of a 0 and of a 1, as [2, pixels] between 0 and 1, and their classes.

    Args:
        images: [N, 1, H, W], uint8.
        labels: [N].
    """
    chosen = torch.stack([(labels == digit).nonzero()[0, 0] for digit in (0, 1)])
    return images[chosen].flatten(1).float() / 255, torch.arange(2)
