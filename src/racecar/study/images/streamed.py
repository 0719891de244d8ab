"""Labelled images too many for memory: decoded by other processes whenever they are asked for.

Which images, in which order and by which seeds is said by whoever asks, so that it depends neither on the number of
processes nor on where a training goes on. Processes hand over uint8, a few MiB at a time whatever the size of a batch.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Found, Split
from racecar.study.images.labelled import Change, Labelled
from racecar.study.images.pixels import NotDecodableError
from racecar.study.images.rows import Content, printable

CPU = torch.device("cpu")
NO_SEED = -1
_PIECE = 2**22  # bytes that a process decodes and hands over at a time
_AHEAD = 4  # pieces that each process has ready
Key = tuple[int, int, int, Change | None]  # split, row, seed, and what is done by it


class Reader(Protocol):
    """How an encoded image becomes pixels; other processes must be able to load it."""

    def __call__(self, content: Content, seed: int) -> np.ndarray:
        """[H, W, C] in uint8; the seed is for readers that cut at random, -1 if there is none.

        Raises:
            NotDecodableError: it is no image, or damaged.
        """


@dataclass(frozen=True)
class _Wrong:
    """What is wrong with an image. Handed over in its place: an exception would come with the other process's trace."""

    row: int
    why: str
    image: bool = True  # else there is something wrong with the machine


class _Decoding(Dataset[Tensor | _Wrong]):
    def __init__(self, splits: Sequence[Split], reader: Reader) -> None:
        self.splits, self.reader = splits, reader

    def __getitem__(self, key: Key) -> Tensor | _Wrong:
        number, row, seed, change = key
        try:
            pixels = torch.from_numpy(self.reader(self.splits[number].rows[row], seed)).permute(2, 0, 1)
        except (NotDecodableError, OSError) as error:
            return _Wrong(row, printable(str(error)))
        except StudyError as error:
            return _Wrong(row, str(error), image=False)
        return pixels if change is None else change(pixels[None], seeds=torch.tensor([seed]))[0]


def _collated(items: list[Tensor | _Wrong]) -> Tensor | list[_Wrong]:
    wrong = [i for i in items if isinstance(i, _Wrong)]
    return wrong or torch.stack([i for i in items if isinstance(i, Tensor)])


def _undisturbed(worker: int) -> None:
    """A signal to the whole group is for the training process, which saves its state; its end is the decoders' too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Asked:
    """What is to be decoded next."""

    def __init__(self) -> None:
        self.keys: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)


class Decoders:
    """Processes that decode the images of some splits; started when first asked, they live on.

    Args:
        splits: what there is to decode.
        reader: how.
        processes: how many; 0 decodes in this one.
    """

    def __init__(self, splits: Sequence[Split], reader: Reader, processes: int) -> None:
        self.splits, self.processes = splits, processes
        self._decoding = _Decoding(splits, reader)
        self._asked = _Asked()
        self._loader: DataLoader | None = None
        self._pass = 0

    def __call__(self, keys: Iterable[list[Key]]) -> Iterator[Tensor | list[_Wrong]]:
        """Decoded pieces in order, [n, C, H, W] in uint8, or what is wrong with some of their images.

        One pass at a time: a new one ends the one before.

        Raises:
            StudyError: a process is gone.
        """
        self._pass = mine = self._pass + 1
        self._asked.keys = keys
        if self._loader is None:
            self._loader = self._started()
        pieces = iter(self._loader)
        while True:
            try:
                with processes_gone():
                    piece = next(pieces, None)
            except (StudyError, OSError, EOFError) as error:  # the last two where what it was handing over is cut off
                self._loader = None
                if self.processes:  # else torch raises it again when other processes end, wherever this one is then
                    pieces._shutdown_workers()  # type: ignore[attr-defined]
                raise error if isinstance(error, StudyError) else _gone(error) from error
            if piece is None:
                return
            yield piece
            if mine != self._pass:
                raise RuntimeError("another pass over these images has begun")

    def here(self, keys: list[Key]) -> Tensor | list[_Wrong]:
        """A piece decoded by this process, which a few images are faster by."""
        return _collated([self._decoding[key] for key in keys])

    def _started(self) -> DataLoader:
        return DataLoader(
            self._decoding,
            batch_sampler=self._asked,  # type: ignore[arg-type]
            num_workers=self.processes,
            collate_fn=_collated,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.processes > 0,
            prefetch_factor=_AHEAD if self.processes else None,
            worker_init_fn=_undisturbed,
            multiprocessing_context=multiprocessing.get_context("spawn") if self.processes else None,
        )


@dataclass(frozen=True)
class Streamed(Labelled):
    """Images of one split, or some of them, decoded on the way.

    Attributes:
        decoders: who decodes them.
        split: its number among the decoders' splits.
        rows: [N], of the split.
        labels: [N], int64, on the CPU.
        classes: the classes' names, by label.
        size: (C, H, W) of what the decoders' reader gives.
        device: where pixels go.
    """

    decoders: Decoders
    split: int
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    size: tuple[int, int, int]
    device: torch.device = CPU

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.size

    @property
    def _length(self) -> int:
        """Images of a piece."""
        return max(1, _PIECE // math.prod(self.size))

    def to(self, device: torch.device) -> Streamed:
        """The same images, decoded on the way to a device."""
        return replace(self, device=device)

    def take(self, indices: Tensor) -> Streamed:
        """Some of the images."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def batches(
        self, chosen: Sequence[Tensor], change: Change | None = None, seeds: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """See :class:`racecar.study.images.labelled.Labelled`; the reader knows the seeds too."""
        length = self._length
        parts = [(b, slice(i, i + length)) for b, rows in enumerate(chosen) for i in range(0, len(rows), length)]

        def keys() -> Iterator[list[Key]]:
            for batch, part in parts:
                rows = self.rows[chosen[batch][part]].tolist()
                drawn = [NO_SEED] * len(rows) if seeds is None else seeds[batch][part].tolist()
                yield [(self.split, row, seed, change) for row, seed in zip(rows, drawn, strict=True)]

        pieces = self.decoders(keys())
        for rows in chosen:
            pixels = torch.empty((len(rows), *self.size), dtype=torch.uint8, device=self.device)
            for part in pixels.split(length):
                part.copy_(self._good(next(pieces)), non_blocking=True)
            yield pixels

    def first(self, count: int) -> Tensor:
        """The first images, [n, C, H, W] in uint8, on the device; decoded by this process."""
        return self.some(torch.arange(min(count, len(self))))

    def some(self, chosen: Tensor) -> Tensor:
        """A few images, [n, C, H, W] in uint8, on the device; decoded by this process.

        Raises:
            StudyError: an image does not decode.
        """
        keys: list[Key] = [(self.split, row, NO_SEED, None) for row in self.rows[chosen].tolist()]
        return self._good(self.decoders.here(keys)).to(self.device)

    def wrong(self) -> dict[int, str]:
        """The images that do not decode, by number, and why; all are decoded for it."""
        keys: Iterator[Key] = ((self.split, row, NO_SEED, None) for row in self.rows.tolist())
        pieces = self.decoders(iter(lambda: list(islice(keys, self._length)), []))
        by_row = {wrong.row: wrong for piece in pieces if not isinstance(piece, Tensor) for wrong in piece}
        for wrong in by_row.values():
            if not wrong.image:
                raise StudyError(wrong.why)
        return {number: by_row[row].why for number, row in enumerate(self.rows.tolist()) if row in by_row}

    def _good(self, piece: Tensor | list[_Wrong]) -> Tensor:
        if isinstance(piece, Tensor):
            return piece
        wrong, split = piece[0], self.decoders.splits[self.split]
        if not wrong.image:
            raise StudyError(wrong.why)
        name = f"{split.rows.name(wrong.row)} of {split.name}"
        raise StudyError(f"{name} does not decode ({wrong.why}): mend or replace it, then go on")


def streamed(found: Found, reader: Reader, shape: tuple[int, int, int], processes: int) -> tuple[Streamed, Streamed]:
    """Images to train on and to measure on, decoded by the same processes.

    Args:
        found: what there is.
        reader: how they are decoded.
        shape: (C, H, W) of what it gives.
        processes: how many decode; 0: this one.
    """
    splits = found.train, found.validation
    decoders = Decoders(splits, reader, processes)
    train, test = (
        Streamed(decoders, number, torch.arange(len(split)), split.labels, found.classes, shape)
        for number, split in enumerate(splits)
    )
    return train, test


@contextmanager
def processes_gone() -> Iterator[None]:
    """The end of a decoding process, of which torch tells wherever this one is, as an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _gone(error) from error


def _gone(error: BaseException) -> StudyError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StudyError(
        f"a process that decodes images is gone ({said}). It may have run out of memory, or of /dev/shm: go on "
        'with fewer, --decoders. In a script, training needs `if __name__ == "__main__":`'
    )
