"""Labelled images, wherever their pixels are: in memory (:mod:`.decoded`), or decoded on the way (:mod:`.streamed`).

Both give the same pixels for the same rows, so that what is drawn from them does not depend on where they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.splits import balanced_order

MANY = 65_536  # images beyond which mean and deviation are those of so many, drawn
_CHUNK = 256


class Change(Protocol):
    """What is done to every image by a seed of its own, such as an augmentation; other processes
    must be able to load it."""

    def __call__(self, pixels: Tensor, *, seeds: Tensor) -> Tensor:
        """[n, C, H, W] in uint8 and seeds [n] → [n, C, H, W] in uint8; each image by its own seed alone."""


class Labelled(ABC):
    """Labelled images of one size.

    Attributes:
        labels: [N], int64, from 0 to the number of classes - 1.
        classes: the classes' names, by label.
    """

    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same images, their pixels on a device."""

    @abstractmethod
    def take(self, indices: Tensor) -> Self:
        """Some of the images."""

    @abstractmethod
    def batches(
        self, chosen: Sequence[Tensor], change: Change | None = None, seeds: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Pixels [n, C, H, W] in uint8, on the device, of one batch after the other.

        Args:
            chosen: which images, [n] for a batch, on the labels' device.
            change: what is done to each.
            seeds: for it, [n] for a batch, on the CPU.

        Raises:
            StudyError: an image does not decode.
        """

    def first(self, count: int) -> Tensor:
        """The first images, [n, C, H, W] in uint8, on the device."""
        (pixels,) = self.batches([torch.arange(min(count, len(self)), device=self.labels.device)])
        return pixels

    def in_order(self, size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All images, ``size`` at a time: pixels [n, C, H, W] in uint8 and labels [n], on the device.

        Of several processes, each gets every ``world``-th batch.
        """
        rows = torch.arange(len(self), device=self.labels.device).split(size)[rank::world]
        for pixels, chosen in zip(self.batches(rows), rows, strict=True):
            yield pixels, self.labels[chosen].to(pixels.device, non_blocking=True)

    def stratified(self, count: int, seed: int) -> tuple[Self, Self]:
        """(``count`` images with as equal a share of every class as there is, the other images), drawn by a seed.

        Raises:
            StudyError: fewer images than that, or than classes.
        """
        if not len(self.classes) <= count <= len(self):
            raise StudyError(
                f"cannot draw {count} of {len(self)} images with {len(self.classes)} classes: ask for at least one "
                "image per class and at most all"
            )
        order = balanced_order(self.labels, seed)
        return self.take(order[:count].sort().values), self.take(order[count:].sort().values)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of pixels between 0 and 1.

        Of more than 65 536 images, so many are drawn by seed 0.
        """
        rows = torch.arange(len(self))
        if len(self) > MANY:
            rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:MANY].sort().values
        channels, height, width = self.shape
        sums = torch.zeros(2, channels, dtype=torch.float64)  # of whole numbers below 2⁵³, hence exact
        for pixels in self.batches(rows.to(self.labels.device).split(_CHUNK)):
            values = pixels.double()
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]).cpu()
        count = len(rows) * height * width
        mean = [s / count / 255 for s in sums[0].tolist()]
        squares = zip(sums[1].tolist(), mean, strict=True)
        return tuple(mean), tuple(max(q / count / 255**2 - m * m, 1e-8) ** 0.5 for q, m in squares)


Kind = TypeVar("Kind", bound=Labelled, covariant=True)
