"""A data set's images, found, looked at and decoded once to uint8; what is wrong with one of them is said.

The one way in for whoever holds images in memory; :mod:`.find` alone is for those that decode them on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.find import Pictures, find, pictures, to_stderr
from racecar.study.images.found import Found
from racecar.study.images.pixels import Decoding, NotDecodableError, OneSize
from racecar.study.images.rows import Content, Rows, printable, some_of
from racecar.study.images.survey import Survey, mapped
from racecar.study.images.unlabelled import find_unlabelled


@dataclass(frozen=True)
class Loaded:
    """Images in memory, and what is known of them.

    Attributes:
        train, validation: of one shape and the same classes.
        found: where they are from, without those that did not decode.
        decoding: how they became pixels.
        bad: names of images that did not decode, and why.
    """

    train: Images
    validation: Images
    found: Found
    decoding: Decoding
    bad: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        """What was found and done, for a file."""
        return self.found.about() | {"decoding": self.decoding.about(), "do_not_decode": list(self.bad)}


def load(
    source: str,
    *,
    validation: str | None = None,
    labels_file: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    labelled: bool = True,
    seed: int = 0,
    tell: Callable[[str], None] = to_stderr,
) -> Loaded:
    """Training and validation images of a data set.

    Args:
        source, validation, labels_file, image, label, seed, tell: see :func:`racecar.study.images.find.find`; ``tell``
            is also called with what was found.
        size: of the square in pixels, scaled and the rest cut off around the centre; None: as they are, which must be
            one size.
        channels: 1 (grey) or 3; None: grey if all images are.
        skip_bad: leave out images that do not decode, instead of an error.
        labelled: whether labels are wanted; without them ``validation``, ``labels_file`` and ``label`` are not used.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    if labelled:
        found = find(
            source, validation=validation, labels_file=labels_file, image=image, label=label, seed=seed, tell=tell
        )
    else:
        found = find_unlabelled(source, image=image, seed=seed, tell=tell)
    splits = (found.train, found.validation)
    seen = [Survey.of(split.rows) for split in splits]
    survey = seen[0] + seen[1]
    decoding = survey.decoding(channels, size)
    found = found.with_remarks(*survey.remarks(decoding))
    tell(f"{printable(source)}: {found.sentence()}")
    side = _one_size(found, seen, decoding)
    decoded = [decode(split.rows, decoding, side) for split in splits]
    bad = _bad(found, decoded, skip_bad)
    if bad:
        found = replace(found, train=splits[0].take(decoded[0].rows), validation=splits[1].take(decoded[1].rows))
        found = found.with_remarks(f"left out: {len(bad)} that do not decode")
        tell(f"{printable(source)}: left out {len(bad)} images that do not decode: {some_of(bad)}")
    train, test = (
        Images(part.pixels, split.labels, found.classes)
        for part, split in zip(decoded, (found.train, found.validation), strict=True)
    )
    return Loaded(train, test, found, decoding, bad)


def train_and_validation(source: str, **options: Any) -> tuple[Images, Images]:
    """The images alone; arguments as :func:`load` has them."""
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
    decoded = decode(found.rows, decoding, survey.one_size(source))
    if decoded.bad:
        raise _do_not_decode(decoded.bad, len(found.rows), source, "Mend or remove them")
    return decoded.pixels, found


@dataclass(frozen=True)
class Decoded:
    """Images that did decode.

    Attributes:
        pixels: [n, C, H, W], uint8.
        rows: [n], which they are.
        bad: names of the others, and why.
    """

    pixels: Tensor
    rows: Tensor
    bad: tuple[str, ...]


def decode(rows: Rows, decoding: Decoding, side: tuple[int, int]) -> Decoded:
    """Decode images into one block of memory.

    Args:
        rows: images.
        decoding: how.
        side: (width, height) that each must have.

    Raises:
        StudyError: out of memory.
    """

    reader = OneSize(decoding, side)

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
    good, bad = [], []
    for row, decoded in enumerate(mapped(rows, one)):
        if isinstance(decoded, str):
            bad.append(f"{rows.name(row)} ({printable(decoded)})")
        else:
            pixels[row] = torch.from_numpy(decoded).permute(2, 0, 1)
            good.append(row)
    chosen = torch.tensor(good, dtype=torch.long)
    return Decoded(pixels[chosen] if bad else pixels, chosen, tuple(bad))


def _one_size(found: Found, seen: list[Survey], decoding: Decoding) -> tuple[int, int]:
    """(width, height) of all images."""
    if decoding.size is not None:
        return decoding.size, decoding.size
    if found.validation_split is None:
        return (seen[0] + seen[1]).one_size(found.source)
    train, test = (s.one_size(part.name) for s, part in zip(seen, (found.train, found.validation), strict=True))
    if train != test and test != (0, 0) != train:
        shapes = (f"{decoding.channels} × {height} × {width}" for width, height in (train, test))
        raise StudyError(
            f"training images of {found.source} are {next(shapes)}, validation images {next(shapes)} (channels × "
            "height × width): choose one size with --size"
        )
    return train


def _bad(found: Found, decoded: list[Decoded], skip_bad: bool) -> tuple[str, ...]:
    """The images that do not decode, if one may go on without them.

    Raises:
        StudyError: one may not, or a class or the validation has no image without them.
    """
    groups = [decoded] if found.validation_split is None else [[part] for part in decoded]
    names = [found.source] if found.validation_split is None else [found.train.name, found.validation.name]
    for group, name in zip(groups, names, strict=True):
        bad, good = [b for part in group for b in part.bad], sum(len(part.rows) for part in group)
        if not good:
            raise StudyError(f"no image in {name} decodes: {some_of(bad)}")
        if bad and not skip_bad:
            remedy = "Mend or remove them, or go on without them with --skip-bad"
            raise _do_not_decode(bad, len(bad) + good, name, remedy)
    left = [found.train.labels[decoded[0].rows], found.validation.labels[decoded[1].rows]]
    lost = (found.train.labels.bincount(minlength=len(found.classes)) > 0) & (
        left[0].bincount(minlength=len(found.classes)) == 0
    )
    if lost.any():
        names = [c for c, gone in zip(found.classes, lost.tolist(), strict=True) if gone]
        raise StudyError(f"{found.source}: no image of {some_of(names)} decodes: mend some, or remove the class")
    if not len(left[1]):
        raise StudyError(f"{found.source}: no image to measure on decodes: mend them, or choose another --validation")
    return decoded[0].bad + decoded[1].bad


def _do_not_decode(bad: Sequence[str], count: int, name: str, remedy: str) -> StudyError:
    return StudyError(f"{len(bad)} of {count} images in {name} do not decode: {some_of(bad)}. {remedy}")
