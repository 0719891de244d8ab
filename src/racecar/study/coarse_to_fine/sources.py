"""The data sets of the pairs, on the hub or in local files, and one that is made of two: images laid over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from racecar.study.coarse_to_fine import idx
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation


@dataclass(frozen=True)
class Source:
    """A data set, on the hub or in a folder.

    Attributes:
        title: for reports.
        hub: its name there.
        folder: its folder's name, with parquet or with the four files of MNIST's format.
        channels: 1 or 3.
    """

    title: str
    hub: str
    folder: str
    channels: int

    def load(self, where: str) -> tuple[Images, Images]:
        """Training and test images.

        Args:
            where: ``"hub"``, or a folder that holds :attr:`folder`.

        Raises:
            StudyError: it is not there, or is something else.
        """
        if where == "hub":
            return train_and_validation(self.hub, channels=self.channels)
        path = Path(where) / self.folder
        if not path.is_dir():
            raise StudyError(f"{path} does not exist: --data takes hub, or a folder with {self.folder} in it")
        if idx.is_there(path):
            return idx.read(path)
        return train_and_validation(str(path), channels=self.channels)


@dataclass(frozen=True)
class Superposed:
    """Images laid over the images of another data set, each over one drawn at random; both have their own labels.

    A pixel is √(1 − share) · base + √share · k · over, where k gives both data sets the same variance, summed over
    pixels; then it is scaled so that none can leave 0 to 255, and rounded, which adds a few 1e-5 of the variance.

    Attributes:
        base, over: the data sets, with images of one size and ten classes each.
        share: of the variance, what is laid over the base.
    """

    base: Source
    over: Source
    share: float

    @property
    def title(self) -> str:
        """For reports."""
        return f"{self.base.title} under {self.over.title} (a share of {self.share:g} of the variance)"

    def load(self, where: str) -> tuple[Images, Images]:
        """Training and test images with 100 classes, ``"base/over"``: 10 · base + over.

        Args:
            where: see :meth:`Source.load`.

        Raises:
            StudyError: see there.
        """
        parts = list(zip(self.base.load(where), self.over.load(where), strict=True))
        spreads = [_spread(images.pixels) for images in parts[0]]
        weights = math.sqrt(1 - self.share), math.sqrt(self.share) * spreads[0] / spreads[1]
        train, test = (self._laid(*pair, weights, seed) for seed, pair in enumerate(parts))
        return train, test

    def _laid(self, base: Images, over: Images, weights: tuple[float, float], seed: int) -> Images:
        count = min(len(base), len(over))
        drawn = torch.randperm(len(over), generator=torch.Generator().manual_seed(seed))[:count]
        mixed = weights[0] * base.pixels[:count].float() + weights[1] * over.pixels[drawn].float()
        pixels = (mixed / sum(weights)).round().to(torch.uint8)
        names = tuple(f"{a}/{b}" for a in base.classes for b in over.classes)
        return Images(pixels, base.labels[:count] * len(over.classes) + over.labels[drawn], names)


def _spread(pixels: Tensor) -> float:
    """Root of the variance of images [N, C, H, W], summed over their pixels."""
    return float(pixels.flatten(1).double().var(0).sum().sqrt())


MNIST = Source("MNIST", "ylecun/mnist", "mnist", 1)
FASHION = Source("Fashion-MNIST", "zalando-datasets/fashion_mnist", "fashion-mnist", 1)
CIFAR10 = Source("CIFAR-10", "uoft-cs/cifar10", "cifar10", 3)
CIFAR100 = Source("CIFAR-100", "uoft-cs/cifar100", "cifar100", 3)
