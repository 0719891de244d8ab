"""Photographs too many for memory: decoded, cropped and mirrored by worker processes while the network trains.

Order, crops and mirroring are functions of (seed, epoch, place in the epoch) alone, as for images in memory: a run goes
on where it stopped, and several processes see together exactly what one would. Workers hand over uint8; a batch becomes
float on the device.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from racecar.study.classification.augmentation import Augmentation
from racecar.study.classification.batches import Batch, Normalisation, batch_count, shares
from racecar.study.core.errors import StudyError
from racecar.study.images.find import find, to_stderr
from racecar.study.images.found import Split
from racecar.study.images.pixels import Decoding, opened, upright, upright_size, what_is_wrong

RATIOS = (3 / 4, 4 / 3)  # of a training crop's sides
COLOUR = Decoding(3)
CPU = torch.device("cpu")
Key = tuple[int, int]  # row, and the seed of its crop; -1: no crop


@dataclass(frozen=True)
class Crops:
    """How a photograph becomes a square.

    Attributes:
        size: pixels of a side.
        scale: a training crop's share of the photograph's area, from and to; mirrored half of the time.
        margin: a test photograph's shorter side is ``margin`` times ``size``, the centre of which is cut out.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    margin: float = 256 / 224

    def train(self, picture: Image.Image, seed: int) -> Image.Image:
        """A random crop, as Szegedy et al. (2015): area and ratio of sides uniform, ten tries, else the centre."""
        draw = np.random.default_rng(seed)
        width, height = upright_size(picture)
        box = None
        for _ in range(10):
            area = width * height * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
                box = (left, top, left + w, top + h)
                break
        if box is None:
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
        found = self._resized(picture, tuple(map(float, box)))
        return found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.uniform() < 0.5 else found

    def test(self, picture: Image.Image) -> Image.Image:
        """The centre."""
        width, height = upright_size(picture)
        side = min(width, height) / self.margin
        left, top = (width - side) / 2, (height - side) / 2
        return self._resized(picture, (left, top, left + side, top + side))

    def _resized(self, picture: Image.Image, box: tuple[float, ...]) -> Image.Image:
        size = (self.size, self.size)
        # A JPEG that is far too large is decoded at a half, a quarter or an eighth of its size.
        width, height = upright_size(picture)
        enough = 2 * self.size / min(box[2] - box[0], box[3] - box[1])
        picture.draft("RGB", (math.ceil(picture.size[0] * enough), math.ceil(picture.size[1] * enough)))
        picture = COLOUR.flat(upright(picture))
        across, down = picture.size[0] / width, picture.size[1] / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        return picture.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


class _Decoding(Dataset[tuple[Tensor, int] | str]):
    """(row, seed) → (uint8 [3, size, size], label), or words on what is wrong: an exception would lose its meaning."""

    def __init__(self, split: Split, crops: Crops) -> None:
        self.split, self.crops = split, crops

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        row, seed = key
        content = self.split.rows[row]
        try:
            with opened(content) as picture:
                found = self.crops.test(picture) if seed < 0 else self.crops.train(picture, seed)
                pixels = torch.from_numpy(np.array(found))
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises whatever the format's reader stumbles over
            where, said = self.split.rows.name(row), what_is_wrong(error, content)
            return f"{where} of {self.split.name} does not decode ({said}): mend or replace it, then go on"
        return pixels.permute(2, 0, 1), int(self.split.labels[row])


def _collated(items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor] | str:
    good = [i for i in items if not isinstance(i, str)]
    if len(good) < len(items):
        return next(i for i in items if isinstance(i, str))
    return torch.stack([pixels for pixels, _ in good]), torch.tensor([label for _, label in good])


def _undisturbed(worker: int) -> None:
    """A signal to the whole group is for the training process, which saves its state; its end is the decoders' too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Keys:
    """What a loader's workers are to decode next; they live on from epoch to epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Decoded batches in order, by processes that are started once.

    Args:
        split: photographs.
        crops: how they are cut.
        workers: processes; 0 decodes in this one.
        device: where batches go.
        normalisation: of pixels.
    """

    def __init__(self, split: Split, crops: Crops, workers: int, device: torch.device, normalisation: Normalisation):
        self.device, self.normalisation = device, normalisation
        self.keys = _Keys()
        self.loader = DataLoader(
            _Decoding(split, crops),
            batch_sampler=self.keys,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_collated,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_undisturbed,
            multiprocessing_context=multiprocessing.get_context("spawn") if workers else None,
        )

    def decoded(self, keys: list[list[Key]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches [n, 3, H, W] in uint8, with their labels [n], in pinned memory where a GPU will take them.

        Raises:
            StudyError: a photograph does not decode.
        """
        self.keys.batches = keys
        for found in self.loader:
            if isinstance(found, str):
                raise StudyError(found)
            yield found

    def __call__(self, keys: list[list[Key]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same on the device, normalised, in float32, channels last."""
        for found in self.decoded(keys):
            pixels, labels = (t.to(self.device, non_blocking=True) for t in found)
            yield self.normalisation(pixels, channels_last=True), labels


@dataclass(frozen=True)
class _Epochs:
    """Training photographs as :class:`racecar.study.classification.batches.Epochs`."""

    loader: Loader
    count: int
    size: int
    seed: int
    rank: int
    world: int

    def __len__(self) -> int:
        return batch_count(self.count, self.size, self.world)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from number ``first`` on."""
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(self.count, generator=draw).tolist()
        seeds = torch.randint(2**62, (self.count,), generator=draw).tolist()
        parts = list(shares(self.count, self.size, self.rank, self.world, first))
        keys = [list(zip(order[mine], seeds[mine], strict=True)) for mine, _ in parts]
        for (batch, labels), (_, weight) in zip(self.loader(keys), parts, strict=True):
            yield batch, labels, weight


@dataclass(frozen=True)
class Photographs:
    """Training and test photographs of one task, as :class:`racecar.study.classification.batches.Data`.

    Attributes:
        train, test: not decoded yet.
        classes: their names, by label.
        crops: how they are cut.
        normalisation: of pixels.
        workers: decoding processes for each of the two.
        device: where batches go.
        held_out: whether the test photographs were drawn from all there are.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    crops: Crops
    normalisation: Normalisation
    workers: int = 0
    device: torch.device = CPU
    held_out: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return 3, self.crops.size, self.crops.size

    @property
    def train_count(self) -> int:
        """Training photographs."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Test photographs."""
        return len(self.test)

    def to(self, device: torch.device) -> Photographs:
        """With batches on a device."""
        return replace(self, device=device)

    def limited(self, train: int | None, test: int | None) -> Photographs:
        """With fewer of both."""
        return replace(self, train=_limited(self.train, train), test=_limited(self.test, test))

    def batches(self, size: int, seed: int, augmentation: Augmentation, rank: int, world: int) -> _Epochs:
        """See :class:`racecar.study.classification.batches.Data`; crops and mirroring are always the same kind."""
        loader = Loader(self.train, self.crops, self.workers, self.device, self.normalisation)
        return _Epochs(loader, self.train_count, size, seed, rank, world)

    def tests(self, size: int, rank: int, world: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`racecar.study.classification.batches.Data`."""
        return self._tests(range(rank * size, self.test_count, world * size), size, self.workers)

    def some_tests(self, count: int) -> Tensor:
        """See :class:`racecar.study.classification.batches.Data`."""
        return next(Loader(self.test, self.crops, 0, self.device, self.normalisation)(self._spread(count)))[0]

    def test_pixels(self, count: int) -> tuple[Tensor, Tensor]:
        """Test photographs from all over the set, [n, 3, H, W] in uint8, and their labels."""
        return next(Loader(self.test, self.crops, 0, self.device, self.normalisation).decoded(self._spread(count)))

    def _spread(self, count: int) -> list[list[Key]]:
        """Image folders come sorted by class."""
        count = min(count, self.test_count)
        return [[(i * self.test_count // count, -1) for i in range(count)]]

    def fingerprint(self) -> list[int]:
        """Changes when there are other photographs, by their number and labels, and with the way they are held out."""
        parts = (self.train.labels, self.test.labels)
        return [self.train_count, self.test_count, *(zlib.crc32(p.numpy().data, self.held_out) for p in parts)]

    def _tests(self, firsts: range, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        keys = [[(i, -1) for i in range(f, min(f + size, self.test_count))] for f in firsts]
        return Loader(self.test, self.crops, workers, self.device, self.normalisation)(keys)


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
        source: a name on the hub, a folder of images by class, a folder with parquet shards, or a parquet file; without
            a split to measure on, a tenth is held out, of every class alike as far as it goes.
        crops: how photographs are cut.
        normalisation: of pixels.
        workers: decoding processes.
        validation: the split to measure on.
        image, label: columns, if not the only ones.
        tell: called with what was found.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    found = find(source, validation=validation, image=image, label=label, tell=tell)
    tell(f"{source}: {found.sentence()}")
    drawn = found.validation_split is None
    return Photographs(found.train, found.validation, found.classes, crops, normalisation, workers, held_out=drawn)


def _limited(split: Split, count: int | None) -> Split:
    """As even a share of every class as there is, drawn by seed 0; all if None."""
    if count is None or count >= len(split):
        return split
    return split.take(_stratified(split.labels)[:count].sort().values)


def _stratified(labels: Tensor) -> Tensor:
    """A shuffled order, by seed 0, of which any prefix holds as equal a share of every class as there is."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(labels))
    shuffled = labels[order]
    for label in shuffled.unique():
        where = (shuffled == label).nonzero()[:, 0]
        place[where] = (torch.arange(len(where)) + 0.5) / len(where)
    return order[place.argsort(stable=True)]
