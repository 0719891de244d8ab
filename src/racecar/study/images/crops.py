"""Photographs of any size as squares, cut at random or around the centre, as networks are trained on ImageNet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from racecar.study.images.pixels import Decoding, reading, upright, upright_size
from racecar.study.images.rows import Content

RATIOS = (3 / 4, 4 / 3)  # of a training crop's sides
_COLOUR = Decoding(3)


@dataclass(frozen=True)
class Crops:
    """How a photograph becomes a square; a :class:`racecar.study.images.decoders.Reader`.

    Attributes:
        size: pixels of a side.
        scale: a training crop's share of the photograph's area, from and to; mirrored half of the time.
        margin: a test photograph's shorter side is ``margin`` times ``size``, the centre of which is cut out.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    margin: float = 256 / 224

    def __call__(self, content: Content, seed: int) -> np.ndarray:
        """[size, size, 3] in uint8: a training crop by a seed, the centre by -1.

        Raises:
            NotDecodableError: it is no image, or damaged.
        """
        with reading(content) as picture:
            return np.array(self.test(picture) if seed < 0 else self.train(picture, seed))

    def train(self, picture: Image.Image, seed: int) -> Image.Image:
        """A random crop, as Szegedy et al. (2015): area and ratio of sides uniform, ten tries, else the centre."""
        draw = np.random.default_rng(seed)
        width, height = upright_size(picture)
        box = None
        for _ in range(10):
            area = width * height * draw.uniform(*self.scale)
            ratio = math.exp(draw.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
                box = (left, top, left + w, top + h)
                break
        if box is None:
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
        found = self._resized(picture, tuple(map(float, box)))
        return found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.uniform() < 0.5 else found

    def test(self, picture: Image.Image) -> Image.Image:
        """The centre."""
        width, height = upright_size(picture)
        side = min(width, height) / self.margin
        left, top = (width - side) / 2, (height - side) / 2
        return self._resized(picture, (left, top, left + side, top + side))

    def _resized(self, picture: Image.Image, box: tuple[float, ...]) -> Image.Image:
        size = (self.size, self.size)
        # A JPEG that is far too large is decoded at a half, a quarter or an eighth of its size.
        width, height = upright_size(picture)
        enough = 2 * self.size / min(box[2] - box[0], box[3] - box[1])
        picture.draft("RGB", (math.ceil(picture.size[0] * enough), math.ceil(picture.size[1] * enough)))
        picture = _COLOUR.flat(upright(picture))
        across, down = picture.size[0] / width, picture.size[1] / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        return picture.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
