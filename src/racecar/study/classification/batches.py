"""What a classifier is trained and measured on: shuffled, augmented batches.

Small sets live on the device as uint8, without other processes in the hot loop; large ones are decoded by some on the
way. Both give the same batches.

Order and augmentation of an epoch are functions of (seed, epoch) alone, and belong to an image's place in the epoch:
a run goes on where it stopped, and several processes see together exactly what one would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Generic, Protocol, TypeAlias

import torch
from torch import Tensor

from racecar.study.classification.augmentation import Augmentation, by_torchvision, moved, transformed
from racecar.study.images.decoded import Images
from racecar.study.images.labelled import Kind, Labelled

Batch = tuple[Tensor, Tensor, float]


class Epochs(Protocol):
    """Training images, cut into batches epoch by epoch."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from number ``first`` on.

        Yields:
            Images [n, C, H, W] in float32, labels [n], and the weight of this process's share: n · world over the
            size of the whole batch, 1 unless the batch does not divide evenly.
        """


class Data(Protocol):
    """Training and test images of one task, held in memory or read on the way.

    Attributes:
        classes: their names, by label.
        shape: (C, H, W) of what the network sees.
        train_count, test_count: images.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    @property
    def train_count(self) -> int: ...  # noqa: D102

    @property
    def test_count(self) -> int: ...  # noqa: D102

    def batches(self, size: int, seed: int, augmentation: Augmentation, rank: int, world: int) -> Epochs:
        """Of the training images, ``size`` to a batch over all processes."""

    def tests(self, size: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test images: images [n, C, H, W] in float32 and labels [n]."""

    def some_tests(self, count: int) -> Tensor:
        """The first test images, [n, C, H, W] in float32."""


def batch_count(images: int, size: int, world: int) -> int:
    """Batches per epoch: one image has no batch statistics, and every process needs one."""
    full, rest = divmod(images, size)
    return full + (rest >= max(2, world))


def shares(images: int, size: int, rank: int, world: int, first: int = 0) -> Iterator[tuple[slice, float]]:
    """This process's places in every batch from number ``first`` on, and their weight, see :meth:`Epochs.epoch`."""
    for number in range(first, batch_count(images, size, world)):
        start, stop = number * size, min((number + 1) * size, images)
        mine = slice(start + rank, stop, world)
        yield mine, len(range(mine.start, mine.stop, mine.step)) * world / (stop - start)


@dataclass(frozen=True)
class Normalisation:
    """Pixels between 0 and 1, minus a mean, over a deviation, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def unit(cls, channels: int) -> Normalisation:
        """Leaves pixels between 0 and 1."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def of(cls, images: Labelled) -> Normalisation:
        """Mean 0 and deviation 1 over a data set."""
        return cls(*images.statistics())

    def __call__(self, pixels: Tensor, *, channels_last: bool = False) -> Tensor:
        """uint8 [N, C, H, W] → float32."""
        scale, shift = _affine(self.mean, self.std, pixels.device)
        batch = torch.addcmul(shift, pixels.float(), scale)
        return batch.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@cache
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept on the device: copying them for every batch would wait for it."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


@dataclass(frozen=True)
class Batches:
    """One data set, cut into batches epoch by epoch.

    Attributes:
        images: what is drawn from.
        size: images per batch over all processes; the last batch of an epoch may be smaller.
        seed: of order and augmentation.
        normalisation: see there.
        augmentation: ``"crop"`` pads by an eighth of the height and cuts out at a random place,
            ``"flip-crop"`` also mirrors half of the images; the others are torchvision's, see :mod:`.augmentation`.
        channels_last: memory format.
        rank, world: this process and how many share every batch.
    """

    images: Labelled
    size: int
    seed: int
    normalisation: Normalisation
    augmentation: Augmentation = "none"
    channels_last: bool = False
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return batch_count(len(self.images), self.size, self.world)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """See :class:`Epochs`."""
        device, count = self.images.labels.device, len(self.images)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(count, generator=generator).to(device)
        pad = max(1, self.images.shape[1] // 8)
        shifts = torch.randint(2 * pad + 1, (count, 2), generator=generator).to(device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
        parts = list(shares(count, self.size, self.rank, self.world, first))
        chosen = [order[mine] for mine, _ in parts]
        if by_torchvision(self.augmentation):
            seeds = torch.randint(2**32, (count,), generator=generator)
            change = partial(transformed, augmentation=self.augmentation)
            decoded = self.images.batches(chosen, change, [seeds[mine] for mine, _ in parts])
        else:
            decoded = self.images.batches(chosen)
        for pixels, rows, (mine, weight) in zip(decoded, chosen, parts, strict=True):
            if self.augmentation in ("crop", "flip-crop"):
                mirror = mirrored[mine].to(pixels.device) if self.augmentation == "flip-crop" else None
                pixels = moved(pixels, shifts[mine].to(pixels.device), pad, mirror)
            batch = self.normalisation(pixels, channels_last=self.channels_last)
            yield batch, self.images.labels[rows].to(pixels.device), weight


@dataclass(frozen=True)
class Sets(Generic[Kind]):
    """Training and test images as :class:`Data`.

    Attributes:
        train, test: of equal shape and classes.
        normalisation: of both.
        channels_last: memory format of the batches.
    """

    train: Kind
    test: Kind
    normalisation: Normalisation
    channels_last: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, by label."""
        return self.train.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    @property
    def train_count(self) -> int:
        """Training images."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Test images."""
        return len(self.test)

    def batches(self, size: int, seed: int, augmentation: Augmentation, rank: int, world: int) -> Epochs:
        """See :class:`Data`."""
        return Batches(self.train, size, seed, self.normalisation, augmentation, self.channels_last, rank, world)

    def tests(self, size: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Data`."""
        for pixels, labels in self.test.in_order(size, rank, world):
            yield self._normalised(pixels), labels

    def some_tests(self, count: int) -> Tensor:
        """See :class:`Data`."""
        return self._normalised(self.test.first(count))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self.normalisation(pixels, channels_last=self.channels_last)


InMemory: TypeAlias = Sets[Images]
