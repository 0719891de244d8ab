"""Pictures as files: one that cannot be read is named in an error; one is written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes
from racecar.study.images.pixels import Decoding, NotDecodableError


def read_picture(path: Path, size: int | None = None) -> Tensor:
    """A picture as [1, 3, h, w] between 0 and 1.

    Args:
        path: any format that Pillow reads.
        size: pixels of the longer side; None: as it is.

    Raises:
        StudyError: no such file, or not an image.
    """
    if not path.exists():
        raise StudyError(f"{path} does not exist")
    if path.is_dir():
        raise StudyError(f"{path} is a folder: give an image")
    try:
        picture = Image.fromarray(Decoding(3)(str(path)))
    except NotDecodableError as error:
        raise StudyError(f"{path} is not an image that can be read: {error}") from error
    if size is not None and max(picture.size) != size:
        scale = size / max(picture.size)
        shape = tuple(max(1, round(s * scale)) for s in picture.size)
        picture = picture.resize(shape, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def png(picture: Tensor) -> bytes:
    """[1, 3, h, w] or [3, h, w] as a PNG, clipped to between 0 and 1."""
    pixels = (picture.detach().reshape(-1, *picture.shape[-2:]).clamp(0, 1) * 255).round().byte()
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(buffer, "png")
    return buffer.getvalue()


def write_picture(path: Path, picture: Tensor) -> None:
    """Write a PNG atomically.

    Raises:
        StudyError: the disk refuses.
    """
    write_bytes(path, png(picture))
