"""Labelled images too many for memory: decoded by other processes whenever they are asked for.

Which images, in which order and by which seeds is said by whoever asks, so that it depends neither on the number of
processes nor on where a training goes on. Processes hand over uint8, a few MiB at a time whatever the size of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoders import NO_SEED, Decoders, Key, Reader, Wrong
from racecar.study.images.found import Found
from racecar.study.images.labelled import Change, Labelled

CPU = torch.device("cpu")
_PIECE = 2**22  # bytes that a process decodes and hands over at a time


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

        split, every = self.split, self.rows  # not self, see Decoders

        def keys() -> Iterator[list[Key]]:
            for batch, part in parts:
                rows = every[chosen[batch][part]].tolist()
                drawn = [NO_SEED] * len(rows) if seeds is None else seeds[batch][part].tolist()
                yield [(split, row, seed, change) for row, seed in zip(rows, drawn, strict=True)]

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
        split, length = self.split, self._length
        keys: Iterator[Key] = ((split, row, NO_SEED, None) for row in self.rows.tolist())
        pieces = self.decoders(iter(lambda: list(islice(keys, length)), []))
        by_row = {wrong.row: wrong for piece in pieces if not isinstance(piece, Tensor) for wrong in piece}
        for wrong in by_row.values():
            if not wrong.image:
                raise StudyError(wrong.why)
        return {number: by_row[row].why for number, row in enumerate(self.rows.tolist()) if row in by_row}

    def _good(self, piece: Tensor | list[Wrong]) -> Tensor:
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
