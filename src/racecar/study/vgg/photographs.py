"""ImageNet's way with photographs: every one is cut at random and mirrored anew in every epoch, while it is decoded."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from racecar.study.classification.augmentation import Augmentation
from racecar.study.classification.batches import Batch, Normalisation, Sets, batch_count, shares
from racecar.study.images.crops import Crops
from racecar.study.images.find import find, to_stderr
from racecar.study.images.streamed import Streamed, streamed


@dataclass(frozen=True)
class _Epochs:
    """Training photographs as :class:`racecar.study.classification.batches.Epochs`."""

    images: Streamed
    normalisation: Normalisation
    size: int
    seed: int
    rank: int
    world: int

    def __len__(self) -> int:
        return batch_count(len(self.images), self.size, self.world)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from number ``first`` on."""
        draw, count = torch.Generator().manual_seed(1_000_003 * self.seed + epoch), len(self.images)
        order = torch.randperm(count, generator=draw)
        seeds = torch.randint(2**62, (count,), generator=draw)
        parts = list(shares(count, self.size, self.rank, self.world, first))
        chosen = [order[mine] for mine, _ in parts]
        decoded = self.images.batches(chosen, seeds=[seeds[mine] for mine, _ in parts])
        for pixels, rows, (_, weight) in zip(decoded, chosen, parts, strict=True):
            labels = self.images.labels[rows].to(pixels.device, non_blocking=True)
            yield self.normalisation(pixels, channels_last=True), labels, weight


@dataclass(frozen=True)
class Photographs(Sets[Streamed]):
    """Training and test photographs of one task, as :class:`racecar.study.classification.batches.Data`.

    Attributes:
        held_out: whether the test photographs were drawn from all there are.
    """

    channels_last: bool = True
    held_out: bool = False

    def to(self, device: torch.device) -> Photographs:
        """With batches on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def limited(self, train: int | None, test: int | None) -> Photographs:
        """With fewer of both: as even a share of every class as there is, drawn by seed 0; all where None."""
        return replace(self, train=_limited(self.train, train), test=_limited(self.test, test))

    def batches(self, size: int, seed: int, augmentation: Augmentation, rank: int, world: int) -> _Epochs:
        """See :class:`racecar.study.classification.batches.Data`; crops and mirroring are always the same kind."""
        return _Epochs(self.train, self.normalisation, size, seed, rank, world)

    def some_tests(self, count: int) -> Tensor:
        """See :class:`racecar.study.classification.batches.Data`; from all over the set, as classes come one by one."""
        return self.normalisation(self.test_pixels(count)[0], channels_last=True)

    def test_pixels(self, count: int) -> tuple[Tensor, Tensor]:
        """Test photographs from all over the set, [n, 3, H, W] in uint8, and their labels [n]."""
        count = min(count, self.test_count)
        rows = torch.arange(count) * self.test_count // count
        return self.test.some(rows), self.test.labels[rows]

    def fingerprint(self) -> list[int]:
        """Changes when there are other photographs, by their number and labels, and with the way they are held out."""
        parts = (self.train.labels, self.test.labels)
        return [self.train_count, self.test_count, *(zlib.crc32(p.numpy().data, self.held_out) for p in parts)]


def load(
    source: str,
    crops: Crops,
    normalisation: Normalisation,
    *,
    workers: int = 0,
    validation: str | None = None,
    image: str | None = None,
    label: str | None = None,
    tell: Callable[[str], None] = to_stderr,
) -> Photographs:
    """Open a data set without decoding it.

    Args:
        source, validation, image, label: see :func:`racecar.study.images.find.find`.
        crops: how photographs are cut.
        normalisation: of pixels.
        workers: decoding processes; 0 decodes in this one.
        tell: called with what was found.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    found = find(source, validation=validation, image=image, label=label, tell=tell)
    tell(f"{source}: {found.sentence()}")
    train, test = streamed(found, crops, (3, crops.size, crops.size), workers)
    return Photographs(train, test, normalisation, held_out=found.validation_split is None)


def _limited(images: Streamed, count: int | None) -> Streamed:
    return images if count is None or count >= len(images) else images.take(_order(images.labels)[:count].sort().values)


def _order(labels: Tensor) -> Tensor:
    """Shuffled by seed 0; any prefix, a short one too, holds as equal a share of every class as there is."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(labels))
    shuffled = labels[order]
    for label in shuffled.unique():
        where = (shuffled == label).nonzero()[:, 0]
        place[where] = (torch.arange(len(where)) + 0.5) / len(where)
    return order[place.argsort(stable=True)]
