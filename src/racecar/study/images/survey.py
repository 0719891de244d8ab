"""What a data set's images are like, by their headers: grey or colour, size, transparency; deep ones are read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images.pixels import (
    DEEP,
    GREY,
    Decoding,
    is_transparent,
    known_range,
    opened,
    orientation,
    upright_size,
    values,
)
from racecar.study.images.rows import Content, Rows, counted

CHUNK = 128  # images in memory at a time
WORDS = {"uint16": "of 16 bits", "int32": "of more than 16 bits", "float32": "in floating point"}
T = TypeVar("T")


def threads() -> ThreadPoolExecutor:
    """Reading and decoding release the interpreter's lock."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def mapped(rows: Rows, function: Callable[[Content], T]) -> Iterator[T]:
    """Of every row, in order, by several threads."""
    with threads() as pool:
        for start in range(0, len(rows), CHUNK):
            yield from pool.map(function, rows.some(range(start, min(start + CHUNK, len(rows)))))


@dataclass(frozen=True)
class Look:
    """One image.

    Attributes:
        size: (width, height) when upright.
        grey, transparent, turned, animated: whether it is.
        deep: the kind of its values, if more than 8 bits; "" else.
        low, high: of these values.
    """

    size: tuple[int, int]
    grey: bool
    transparent: bool
    turned: bool
    animated: bool
    deep: str = ""
    low: float = 0.0
    high: float = 0.0


def look(content: Content) -> Look | None:
    """At one image; None if it does not open."""
    try:
        with opened(content) as picture:
            deep = DEEP.get(picture.mode, "")
            turned, size = orientation(picture), upright_size(picture)
            array = values(picture) if deep else None
            return Look(
                size,
                _is_grey(picture),
                is_transparent(picture),
                turned != 1,
                picture.format in ("GIF", "PNG", "TIFF", "WEBP") and bool(getattr(picture, "is_animated", False)),
                deep,
                0.0 if array is None else float(array.min()),
                0.0 if array is None else float(array.max()),
            )
    except MemoryError as error:
        raise StudyError("out of memory while images are read: close other programs, or use fewer images") from error
    except Exception:  # said when it is decoded
        return None


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode == "P":
        colours = picture.getpalette() or []
        return colours[::3] == colours[1::3] == colours[2::3]
    return picture.mode in GREY


@dataclass
class Survey:
    """Of a whole data set.

    Attributes:
        images: how many open.
        sizes: (width, height) and how often.
        counts: of grey, transparent, turned and animated images, and of every deep kind.
        extremes: of every deep kind.
    """

    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Rows) -> Survey:
        """Look at images."""
        found = cls()
        for seen in mapped(rows, look):
            if seen is None:
                continue
            found.images += 1
            found.sizes[seen.size] += 1
            found.counts.update(k for k in ("grey", "transparent", "turned", "animated") if getattr(seen, k))
            if seen.deep:
                found.counts[seen.deep] += 1
                low, high = found.extremes.get(seen.deep, (seen.low, seen.high))
                found.extremes[seen.deep] = min(low, seen.low), max(high, seen.high)
        return found

    def __add__(self, other: Survey) -> Survey:
        extremes = dict(self.extremes)
        for kind, (low, high) in other.extremes.items():
            known = extremes.get(kind, (low, high))
            extremes[kind] = min(low, known[0]), max(high, known[1])
        return Survey(self.images + other.images, self.sizes + other.sizes, self.counts + other.counts, extremes)

    def one_size(self, name: str) -> tuple[int, int]:
        """(width, height) of all images; zeros where none opens.

        Raises:
            StudyError: they differ in size.
        """
        sizes = sorted(self.sizes, key=lambda s: (s[1], s[0]))
        if len(sizes) > 1:
            (w, h), (width, height) = sizes[0], sizes[-1]
            raise StudyError(
                f"images in {name} differ in size ({h} × {w} to {height} × {width} pixels): choose one with --size"
            )
        return sizes[0] if sizes else (0, 0)

    def decoding(self, channels: int | None, size: int | None) -> Decoding:
        """How all of them are decoded: in colour if one is in colour, unless channels are given."""
        grey = self.counts["grey"] == self.images
        ranges = {kind: known_range(kind, *extremes) for kind, extremes in self.extremes.items()}
        return Decoding(channels or (1 if grey and self.images else 3), size, ranges)

    def remarks(self, decoding: Decoding) -> tuple[str, ...]:
        """What is done to images beyond cutting them to size."""
        found = []
        for kind, (low, high) in decoding.ranges.items():
            shown = "uint16" if kind == "int32" and low == 0 and high < 2**16 else kind  # Pillow opens some as such
            found.append(f"{self.counts[kind]} {WORDS[shown]}, scaled from {low:g} to {high:g}")
        if count := self.counts["transparent"]:
            found.append(f"{count} with transparency, on white")
        if count := self.counts["turned"]:
            found.append(f"{count} turned as EXIF says")
        if count := self.counts["animated"]:
            found.append(f"{count} of several frames, the first")
        grey = self.counts["grey"]
        if decoding.channels == 3 and 0 < grey < self.images:
            found.append(f"{counted(grey, 'grey image')}, read as colour")
        if decoding.channels == 1 and grey < self.images:
            found.append(f"{counted(self.images - grey, 'image')} in colour, read as grey")
        return tuple(found)
