"""A data set's images, found and looked at by their headers: all that has to be known before any is decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from racecar.study.core.errors import StudyError
from racecar.study.images.find import find, to_stderr
from racecar.study.images.found import Found
from racecar.study.images.pixels import Decoding, OneSize
from racecar.study.images.rows import printable
from racecar.study.images.survey import Survey
from racecar.study.images.unlabelled import find_unlabelled


@dataclass(frozen=True)
class Seen:
    """Images that are not decoded yet.

    Attributes:
        found: where they are.
        reader: how they become pixels of one size.
    """

    found: Found
    reader: OneSize

    @property
    def images(self) -> int:
        """How many."""
        return len(self.found.train) + len(self.found.validation)

    @property
    def bytes(self) -> int:
        """What they take when decoded."""
        return self.images * math.prod(self.reader.shape)


def look(
    source: str,
    *,
    validation: str | None = None,
    labels_file: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    labelled: bool = True,
    seed: int = 0,
    tell: Callable[[str], None] = to_stderr,
) -> Seen:
    """Find training and validation images of a data set, and say what was found.

    Args:
        source, validation, labels_file, image, label, seed, tell: see :func:`racecar.study.images.find.find`; ``tell``
            is also called with what was found.
        size: of the square in pixels, scaled and the rest cut off around the centre; None: as they are, which must be
            one size.
        channels: 1 (grey) or 3; None: grey if all images are.
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
    seen = [Survey.of(split.rows) for split in (found.train, found.validation)]
    survey = seen[0] + seen[1]
    decoding = survey.decoding(channels, size)
    found = found.with_remarks(*survey.remarks(decoding))
    tell(f"{printable(source)}: {found.sentence()}")
    return Seen(found, OneSize(decoding, _one_size(found, seen, decoding)))


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
