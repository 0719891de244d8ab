"""MNIST's own file format (idx), in which Fashion-MNIST is distributed, by Debian's dataset-fashion-mnist too."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

_PARTS = ("train", "t10k")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def is_there(folder: Path) -> bool:
    """Whether a folder holds such files."""
    return any(folder.glob("*-ubyte*"))


def read(folder: Path) -> tuple[Images, Images]:
    """Training and test images of a folder.

    Raises:
        StudyError: a file is missing, cut short, or holds something else.
    """
    train, test = (_images(folder, part) for part in _PARTS)
    return train, test


def _images(folder: Path, part: str) -> Images:
    pixels, labels = (
        _tensor(folder, f"{part}-{kind}-ubyte", dims) for kind, dims in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if len(pixels) != len(labels):
        raise StudyError(f"{folder}: {len(pixels)} images and {len(labels)} labels of {part!r}")
    if int(labels.max()) > 9:
        raise StudyError(f"{folder}: a label of {part!r} is {int(labels.max())}, and not 0 to 9")
    classes = _FASHION if "fashion" in folder.name else tuple(map(str, range(10)))
    return Images(pixels[:, None], labels.long(), classes)


def _tensor(folder: Path, name: str, dims: int) -> Tensor:
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise StudyError(f"{folder} has no {name}.gz: it needs images and labels of train and t10k")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"{path} cannot be read ({error}): fetch it again") from error
    if len(content) < 4 + 4 * dims or content[:4] != bytes((0, 0, 8, dims)):
        raise StudyError(f"{path} is no idx file of bytes in {dims} dimensions")
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    body = content[4 + 4 * dims :]
    size = 1
    for length in shape:
        size *= length
    if len(body) != size or not size:
        raise StudyError(f"{path} is cut short: {len(body)} of {size} bytes, fetch it again")
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).view(shape)
