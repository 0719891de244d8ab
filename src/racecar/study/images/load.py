"""A data set's images, found, looked at and decoded, once into memory or on the way; what is wrong with one is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.find import Pictures, pictures, to_stderr
from racecar.study.images.found import Found
from racecar.study.images.labelled import Kind
from racecar.study.images.pixels import Decoding, NotDecodableError, OneSize
from racecar.study.images.rows import Content, Rows, printable, some_of
from racecar.study.images.seen import Seen, look
from racecar.study.images.streamed import Streamed, streamed
from racecar.study.images.survey import Survey, mapped


@dataclass(frozen=True)
class Loaded(Generic[Kind]):
    """Images of which those that do not decode are known, and what else is known of them.

    Attributes:
        train, validation: of one shape and the same classes.
        seen: where they are from, and how they become pixels.
        found: the same without images that did not decode.
        bad: names of these, and why.
    """

    train: Kind
    validation: Kind
    seen: Seen
    found: Found
    bad: tuple[str, ...] = ()

    @property
    def decoding(self) -> Decoding:
        """How they become pixels."""
        return self.seen.reader.decoding

    def listed(self) -> tuple[int, int]:
        """Numbers that change with the names, sizes in bytes and labels of training and validation images."""
        train, validation = self.seen.found.splits
        return train.checksum(), validation.checksum()

    def about(self) -> dict[str, Any]:
        """What was found and done, for a file."""
        return self.found.about() | {"decoding": self.decoding.about(), "do_not_decode": list(self.bad)}


def load(
    source: str, *, skip_bad: bool = False, tell: Callable[[str], None] = to_stderr, **options: Any
) -> Loaded[Images]:
    """Training and validation images of a data set, in memory.

    Args:
        source, tell, options: see :func:`racecar.study.images.seen.look`.
        skip_bad: leave out images that do not decode, instead of an error.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    return held(look(source, tell=tell, **options), skip_bad, tell)


def held(seen: Seen, skip_bad: bool, tell: Callable[[str], None]) -> Loaded[Images]:
    """Images decoded once.

    Args:
        seen: which, and how.
        skip_bad, tell: see :func:`load`.

    Raises:
        StudyError: some do not decode.
    """
    found = seen.found
    decoded = [decode(split.rows, seen.reader) for split in (found.train, found.validation)]
    found, bad = _without(found, decoded, skip_bad, tell)
    train, test = (
        Images(part.pixels, split.labels, found.classes)
        for part, split in zip(decoded, (found.train, found.validation), strict=True)
    )
    return Loaded(train, test, seen, found, bad)


def on_the_way(seen: Seen, processes: int, skip_bad: bool, tell: Callable[[str], None]) -> Loaded[Streamed]:
    """Images that are decoded whenever they are asked for; once before, if those that do not decode are left out.

    Args:
        seen: which, and how.
        processes: how many decode; 0: this one.
        skip_bad, tell: see :func:`load`.

    Raises:
        StudyError: some do not decode, and nothing is left without them.
    """
    train, test = parts = streamed(seen.found, seen.reader, seen.reader.shape, processes)
    if not skip_bad:
        return Loaded(train, test, seen, seen.found)
    tell("all images are decoded once, to leave out those that do not decode")
    kept = [_kept(images.wrong(), split.rows) for images, split in zip(parts, seen.found.splits, strict=True)]
    found, bad = _without(seen.found, kept, skip_bad, tell)
    train, test = (images.take(part.rows) for images, part in zip(parts, kept, strict=True))
    return Loaded(train, test, seen, found, bad)


def train_and_validation(source: str, **options: Any) -> tuple[Images, Images]:
    """The images alone, in memory; arguments as :func:`load` has them."""
    loaded = load(source, **options)
    return loaded.train, loaded.validation


def load_pictures(source: str, *, image: str | None = None, channels: int | None = None) -> tuple[Tensor, Pictures]:
    """Images of one size, whatever their labels.

    Args:
        source, image: see :func:`racecar.study.images.find.pictures`.
        channels: 1 (grey) or 3; None: grey if all images are.

    Returns:
        Pixels [N, C, H, W] in uint8, and where they are from.

    Raises:
        StudyError: images that do not decode or differ in size, or none.
    """
    found = pictures(source, image)
    survey = Survey.of(found.rows)
    decoding = survey.decoding(channels, None)
    decoded = decode(found.rows, OneSize(decoding, survey.one_size(source)))
    if decoded.bad:
        raise do_not_decode(decoded.bad, len(found.rows), source, may_skip=False)
    return decoded.pixels, found


@dataclass(frozen=True)
class Kept:
    """Images that do decode.

    Attributes:
        rows: [n], which they are.
        bad: names of the others, and why.
    """

    rows: Tensor
    bad: tuple[str, ...]


@dataclass(frozen=True)
class Decoded(Kept):
    """The same with their pixels.

    Attributes:
        pixels: [n, C, H, W], uint8.
    """

    pixels: Tensor


def decode(rows: Rows, reader: OneSize) -> Decoded:
    """Decode images into one block of memory.

    Args:
        rows: images.
        reader: how.

    Raises:
        StudyError: out of memory.
    """

    def one(content: Content) -> np.ndarray | str:
        try:
            return reader(content)
        except NotDecodableError as error:
            return str(error)

    try:
        pixels = torch.empty((len(rows), *reader.shape), dtype=torch.uint8)
    except RuntimeError as error:
        size = len(rows) * math.prod(reader.shape) / 2**30
        raise StudyError(
            f"{len(rows)} images take {size:.1f} GiB, more than is free: decode them on the way, --stream, or "
            "use a smaller --size"
        ) from error
    bad = {}
    for row, decoded in enumerate(mapped(rows, one)):
        if isinstance(decoded, str):
            bad[row] = printable(decoded)
        else:
            pixels[row] = torch.from_numpy(decoded).permute(2, 0, 1)
    kept = _kept(bad, rows)
    return Decoded(kept.rows, kept.bad, pixels[kept.rows] if bad else pixels)


def _kept(bad: Mapping[int, str], rows: Rows) -> Kept:
    good = torch.ones(len(rows), dtype=torch.bool)
    good[list(bad)] = False
    return Kept(good.nonzero()[:, 0], tuple(f"{rows.name(row)} ({why})" for row, why in bad.items()))


def _without(
    found: Found, kept: Sequence[Kept], skip_bad: bool, tell: Callable[[str], None]
) -> tuple[Found, tuple[str, ...]]:
    """What was found without the images that do not decode, and the names of these."""
    if bad := _bad(found, kept, skip_bad):
        found = replace(found, train=found.train.take(kept[0].rows), validation=found.validation.take(kept[1].rows))
        found = found.with_remarks(f"left out: {len(bad)} that do not decode")
        tell(f"{printable(found.source)}: left out {len(bad)} images that do not decode: {some_of(bad)}")
    return found, bad


def _bad(found: Found, kept: Sequence[Kept], skip_bad: bool) -> tuple[str, ...]:
    """The images that do not decode, if one may go on without them.

    Raises:
        StudyError: one may not, or a class or the validation has no image without them.
    """
    groups = [kept] if found.validation_split is None else [[part] for part in kept]
    names = [found.source] if found.validation_split is None else [found.train.name, found.validation.name]
    for group, name in zip(groups, names, strict=True):
        bad, good = [b for part in group for b in part.bad], sum(len(part.rows) for part in group)
        if not good:
            raise StudyError(f"no image in {name} decodes: {some_of(bad)}")
        if bad and not skip_bad:
            raise do_not_decode(bad, len(bad) + good, name)
    left = [found.train.labels[kept[0].rows], found.validation.labels[kept[1].rows]]
    lost = (found.train.labels.bincount(minlength=len(found.classes)) > 0) & (
        left[0].bincount(minlength=len(found.classes)) == 0
    )
    if lost.any():
        names = [c for c, gone in zip(found.classes, lost.tolist(), strict=True) if gone]
        raise StudyError(f"{found.source}: no image of {some_of(names)} decodes: mend some, or remove the class")
    if not len(left[1]):
        raise StudyError(f"{found.source}: no image to measure on decodes: mend them, or choose another --validation")
    return kept[0].bad + kept[1].bad


def do_not_decode(bad: Sequence[str], count: int, name: str, *, may_skip: bool = True) -> StudyError:
    """The error that names images that do not decode.

    Args:
        bad: their names, and why.
        count: images there are.
        name: of what holds them.
        may_skip: whether one may go on without them.
    """
    remedy = "Mend or remove them" + (", or go on without them with --skip-bad" if may_skip else "")
    return StudyError(f"{len(bad)} of {count} images in {name} do not decode: {some_of(bad)}. {remedy}")
