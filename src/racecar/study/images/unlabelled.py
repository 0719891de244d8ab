"""Images whose labels nobody asks for: all below a folder, or a data set's training split; a tenth is held out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from racecar.study.images import splits
from racecar.study.images.find import pictures, to_stderr
from racecar.study.images.found import Found, Split

CLASSES = ("unlabelled",)


def find_unlabelled(
    source: str, *, image: str | None = None, seed: int = 0, tell: Callable[[str], None] = to_stderr
) -> Found:
    """The images as one class.

    Args:
        source, image, tell: see :func:`racecar.study.images.find.pictures`.
        seed: of what is held out.

    Raises:
        StudyError: nothing there, or not readable.
    """
    rows = pictures(source, image, tell).rows
    labels = torch.zeros(len(rows), dtype=torch.long)
    whole, out = Split(rows, labels, source), splits.held_out(labels, source, seed)
    train, test = whole.take((~out).nonzero()[:, 0]), whole.take(out.nonzero()[:, 0])
    return Found(source, "labels not asked for", CLASSES, train, test)
