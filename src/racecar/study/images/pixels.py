"""One image to 8 bits per channel, whatever a camera, a scanner or a program has written.

Turned as its EXIF says; 16 bits, whole numbers and fractions scaled by a range that a whole data set shares; what is
transparent laid on a background.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from racecar.study.core.errors import StudyError
from racecar.study.images.rows import Content

BACKGROUND = 255  # white
DEEP = {**dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "uint16"), "I": "int32", "F": "float32"}
GREY = ("1", "L", "LA", "La", *DEEP)
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_ORIENTATION = 0x0112


class NotDecodableError(Exception):
    """What is wrong with one image, in a few words."""


@dataclass(frozen=True)
class Decoding:
    """How every image of a data set becomes pixels.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        size: of the square in pixels, scaled and the rest cut off around the centre; None: as it is.
        ranges: for images of more than 8 bits, by kind: which value becomes 0 and which 255.
    """

    channels: int
    size: int | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, content: Content) -> np.ndarray:
        """[H, W, C] in uint8.

        Raises:
            NotDecodableError: it is no image, or damaged.
            StudyError: out of memory.
        """
        with reading(content) as file:
            if self.size is not None:  # a JPEG six times as large is decoded at half its size, a larger one smaller
                file.draft(file.mode, (3 * self.size, 3 * self.size))
            picture = self.flat(upright(file))
            if self.size is not None and picture.size != (self.size, self.size):
                picture = ImageOps.fit(picture, (self.size, self.size))
            pixels = np.array(picture)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def flat(self, picture: Image.Image) -> Image.Image:
        """Grey (mode L) or colour (RGB)."""
        if (kind := DEEP.get(picture.mode)) is not None:
            picture = Image.fromarray(self._scaled(values(picture), kind))
        elif is_transparent(picture):
            picture = on_background(picture)
        return picture.convert("L" if self.channels == 1 else "RGB")

    def _scaled(self, array: np.ndarray, kind: str) -> np.ndarray:
        low, high = self.ranges.get(kind) or known_range(kind, float(array.min()), float(array.max()))
        scaled = (array.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    def about(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"ranges": {k: list(v) for k, v in self.ranges.items()}, "background": BACKGROUND}


@dataclass(frozen=True)
class OneSize:
    """Images that all have one size; a :class:`racecar.study.images.decoders.Reader`.

    Attributes:
        decoding: how they become pixels.
        side: (width, height) that each must have.
    """

    decoding: Decoding
    side: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.decoding.channels, self.side[1], self.side[0]

    def __call__(self, content: Content, seed: int = -1) -> np.ndarray:
        """[H, W, C] in uint8; nothing is drawn.

        Raises:
            NotDecodableError: it is no image, damaged, or of another size.
            StudyError: out of memory.
        """
        pixels = self.decoding(content)
        height, width = pixels.shape[:2]
        if (width, height) != self.side:
            raise NotDecodableError(f"{height} × {width} pixels")
        return pixels


@contextmanager
def reading(content: Content) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet; whatever goes wrong until it is closed is the image's fault.

    Raises:
        NotDecodableError: it is no image, or damaged.
        StudyError: out of memory.
    """
    try:
        with opened(content) as file:
            yield file
    except NotDecodableError:
        raise
    except MemoryError as error:
        raise StudyError(
            "out of memory while images are decoded: close other programs, use a smaller --size or fewer images"
        ) from error
    except Exception as error:  # Pillow raises whatever the format's reader stumbles over
        raise NotDecodableError(what_is_wrong(error, content)) from error


def opened(content: Content) -> Image.Image:
    """An image whose pixels are not read yet.

    Raises:
        NotDecodableError: there is nothing.
    """
    if content is None or content == b"":
        raise NotDecodableError("no content")
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def what_is_wrong(error: Exception, content: Content) -> str:
    """Words for what Pillow raises."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "cannot identify" not in text:
        return text
    if isinstance(content, str):
        with open(content, "rb") as file:
            head = file.read(64)
        if not head:
            return "an empty file"
        if head.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS: git lfs pull brings the image"
    return "not an image"


def orientation(picture: Image.Image) -> int:
    """As EXIF has it: 1 is upright. A PNG that is not read yet may still have some behind its pixels."""
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    try:
        return int(picture.getexif().get(_ORIENTATION, 1) or 1)
    except Exception:  # a damaged header of this kind does not harm the pixels
        return 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) of an image that is not read yet, once it is upright."""
    width, height = picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # some versions of Pillow have swapped them already
        width, height = picture.tag_v2[256], picture.tag_v2[257]
    return (height, width) if orientation(picture) in _SIDEWAYS else (width, height)


def upright(picture: Image.Image) -> Image.Image:
    """Turned and mirrored as its EXIF orientation says."""
    picture.load()
    return ImageOps.exif_transpose(picture) if orientation(picture) != 1 else picture


def is_transparent(picture: Image.Image) -> bool:
    """Whether it has an alpha channel or a transparent colour."""
    return picture.has_transparency_data


def on_background(picture: Image.Image) -> Image.Image:
    """A picture with transparency on white."""
    layers = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
    white = Image.new("RGBA", layers.size, (BACKGROUND,) * 4)
    return Image.alpha_composite(white, layers)


def values(picture: Image.Image) -> np.ndarray:
    """Of an image of more than 8 bits, [H, W].

    Raises:
        NotDecodableError: it holds NaN or infinity.
    """
    array = np.asarray(picture)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NotDecodableError("holds NaN or infinity")
    return array


def known_range(kind: str, low: float, high: float) -> tuple[float, float]:
    """Black and white of images whose values lie between ``low`` and ``high``.

    16 bits may hold 8, 10, 12 or 14; whole numbers and fractions are taken for the usual ranges if they fit.
    """
    usual = [(0.0, float(2**bits - 1)) for bits in (8, 10, 12, 14, 16)]
    if kind == "float32":
        usual = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
    return next(((a, b) for a, b in usual if a <= low and high <= b), (low, high))
