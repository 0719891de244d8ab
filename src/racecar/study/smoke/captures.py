"""Real smoke for task B2: pictures of a capture, cut and scaled so that the networks can halve them twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.load import load_pictures
from racecar.study.smoke.network import FACTOR


@dataclass(frozen=True)
class Captures:
    """Pictures of real smoke.

    Attributes:
        pixels: [n, 3, h, w], uint8; h and w are multiples of 4.
        view: [n], the camera; 0 where the data set has no column ``view``.
        words: where they come from, for every table.
    """

    pixels: Tensor
    view: Tensor
    words: str


def load(source: str, factor: int) -> Captures:
    """Read a data set's images.

    Args:
        source: a folder of parquet files or images, or a hub name; columns ``image`` and, if there, ``view``.
        factor: pictures are averaged over squares of this many pixels, after what is too much is cut off around the
            centre.

    Raises:
        StudyError: nothing there, images that do not decode or differ in size, or that are too small.
    """
    pixels, found = load_pictures(source, channels=3)
    unit = FACTOR * factor
    height, width = (side // unit * unit for side in pixels.shape[-2:])
    if not height or not width:
        size = " × ".join(str(side) for side in pixels.shape[-2:])
        raise StudyError(
            f"images in {source} have {size} pixels (h × w): --capture-factor {factor} needs {unit} or more"
        )
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    cut = pixels[..., top : top + height, left : left + width]
    small = torch.cat([F.avg_pool2d(part.float(), factor).round().byte() for part in cut.split(50)])
    grey = bool((small == small[:, :1]).all())
    has_view = found.table is not None and "view" in found.table.column_names
    view = torch.tensor(found.table["view"][:]) if has_view else torch.zeros(len(small), dtype=torch.long)
    words = f"{len(small)} pictures of real smoke from {source.rstrip('/').rpartition('/')[2]}"
    return Captures(small, view, words + (", grey, so that their three channels are equal" if grey else ""))
