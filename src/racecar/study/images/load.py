"""A data set of labelled images, decoded once to uint8: from the hub, parquet files or image folders (``datasets``).

Everything that can be wrong with somebody's images is said here, before any training begins.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

VALIDATION = ("validation", "valid", "val", "test")
LABELS = ("label", "fine_label", "labels", "class", "target")


def open_source(source: str) -> dict[str, Any]:
    """The splits of a data set, not decoded yet.

    Args:
        source: a name on the hub (``uoft-cs/cifar10``), a parquet file, a folder with parquet files, or a folder
            with one folder of images per class, directly or below ``train`` and ``test``.

    Raises:
        StudyError: nothing there, or not readable.
    """
    import datasets

    datasets.disable_progress_bars()
    path = Path(source)
    try:
        if path.is_file():
            if path.suffix != ".parquet":
                raise StudyError(f"{source} is not a data set: give a hub name, a folder, or a .parquet file")
            return dict(datasets.load_dataset("parquet", data_files={"train": str(path)}))
        if path.is_dir():
            if not any(p.is_file() for p in path.rglob("*")):
                raise StudyError(
                    f"{source} is empty: it needs parquet files, or one folder of images per class, directly or below "
                    "train/ and test/"
                )
            if any(path.rglob("*.parquet")):
                return dict(datasets.load_dataset(str(path)))
            # The label of an image is its folder; without a file per image there would be no such column.
            return dict(datasets.load_dataset("imagefolder", data_dir=str(path), drop_labels=False))
        if path.is_absolute() or source.startswith("."):
            raise StudyError(f"{source} does not exist: give a hub name, a folder, or a .parquet file")
        return dict(datasets.load_dataset(source))
    except StudyError:
        raise
    except Exception as error:  # datasets raises many kinds, down to pyarrow's
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(f"cannot read the data set {source}: {said}") from error


def open_splits(source: str, validation: str | None) -> tuple[dict[str, Any], str, str | None]:
    """The splits, the name of the one to train on and of the one to measure on, if there is one.

    Raises:
        StudyError: nothing to read, or no split ``validation``.
    """
    splits = open_source(source)
    train = "train" if "train" in splits else next(iter(splits))
    chosen = validation or next((n for n in VALIDATION if n in splits and n != train), None)
    if chosen is not None and chosen not in splits:
        raise StudyError(f"{source} has no split {chosen!r}, only {', '.join(splits)}")
    return splits, train, chosen


def columns(split: Any, source: str, image: str | None = None, label: str | None = None) -> tuple[str, str]:
    """The names of the columns that hold the images and the labels, unless given.

    Raises:
        StudyError: no such column, or several that could be it.
    """
    import datasets

    features = split.features
    image = image or image_column(split, source)
    if label is None:
        found = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
        if len(found) != 1:
            found = [n for n in LABELS if n in features][:1]
        if not found:
            raise StudyError(f"{source}: which column holds the labels? It has {', '.join(features)}: --label-column")
        label = found[0]
    for name in (image, label):
        if name not in features:
            raise StudyError(f"{source} has no column {name!r}, only {', '.join(features)}")
    return image, label


def image_column(split: Any, source: str) -> str:
    """The name of the one column that holds images.

    Raises:
        StudyError: none, or several.
    """
    import datasets

    found = [n for n, f in split.features.items() if isinstance(f, datasets.Image) or n in ("image", "img")]
    if len(found) != 1:
        raise StudyError(f"{source}: which column holds the images? It has {', '.join(split.features)}: --image-column")
    return found[0]


def decode(
    split: Any,
    source: str,
    *,
    image: str,
    label: str,
    size: int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    classes: Sequence[str] | None = None,
) -> tuple[Images, list[str]]:
    """Decode a split.

    Args:
        split: from :func:`open_source`.
        source: its name, for messages.
        image, label: columns.
        size: shorter side in pixels, the rest cut off around the centre; None: as they are, which must be one size.
        channels: 1 (grey) or 3; None: grey if the first image is.
        skip_bad: leave out images that do not decode, instead of an error.
        classes: names by label, if another split has fixed them.

    Returns:
        The images and the names of those left out.

    Raises:
        StudyError: images that do not decode (named, with a count), sizes that differ, labels outside the range.
    """
    import datasets

    if len(split) == 0:
        raise StudyError(f"{source} holds no images")
    feature = split.features[label]
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    labels, names = numbered(split[label][:], names, tuple(classes) if classes is not None else None, source)
    stacked, good, bad = decode_pixels(split, source, image=image, size=size, channels=channels, skip_bad=skip_bad)
    return Images(stacked, labels[good], names), bad


def decode_pixels(
    split: Any, source: str, *, image: str, size: int | None = None, channels: int | None = None, skip_bad: bool = False
) -> tuple[Tensor, list[int], list[str]]:
    """The images of a split alone, see :func:`decode`.

    Returns:
        Pixels [n, C, H, W] as uint8, the rows they are from, and the names of the images left out.
    """
    import datasets

    if len(split) == 0:
        raise StudyError(f"{source} holds no images")
    raw = split.cast_column(image, datasets.Image(decode=False))
    one = _Decoder(size, channels)
    pixels: list[np.ndarray | None] = []
    bad: list[str] = []
    # Decoding releases the interpreter's lock, so threads help; rows come in the data set's order.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = iter(raw.select_columns([image]))
        number = 0
        while chunk := list(islice(rows, 1024)):
            contents = [row[image] for row in chunk]
            if one.channels is None:
                one.settle(contents)
            for content, decoded in zip(contents, pool.map(one, contents), strict=True):
                if isinstance(decoded, str):
                    where = (content or {}).get("path") or f"row {number}"
                    bad.append(f"{where} ({decoded})")
                pixels.append(None if isinstance(decoded, str) else decoded)
                number += 1
    if bad and not skip_bad:
        raise StudyError(
            f"{len(bad)} of {len(pixels)} images in {source} do not decode: {_some(bad)}. Mend or remove them, or go "
            "on without them with --skip-bad"
        )
    good = [i for i, p in enumerate(pixels) if p is not None]
    if not good:
        raise StudyError(f"no image in {source} decodes: {_some(bad)}")
    shapes = sorted({p.shape for p in pixels if p is not None})
    if len(shapes) > 1:
        raise StudyError(
            f"images in {source} differ in size ({' × '.join(map(str, shapes[0][:2]))} to "
            f"{' × '.join(map(str, shapes[-1][:2]))} pixels): choose one with --size"
        )
    stacked = torch.from_numpy(np.stack([p for p in pixels if p is not None])).permute(0, 3, 1, 2).contiguous()
    return stacked, good, bad


class _Decoder:
    """Bytes or a path to an array [H, W, C], or a word of what is wrong."""

    def __init__(self, size: int | None, channels: int | None) -> None:
        self.size, self.channels = size, channels

    def settle(self, contents: Sequence[Any]) -> None:
        """Grey or colour, as the first image that opens."""
        from PIL import Image

        for content in contents:
            try:
                with Image.open(self._file(content)) as picture:
                    self.channels = 1 if picture.mode in ("1", "L", "I;16") else 3
                    return
            except Exception:  # told when it is decoded
                continue
        self.channels = 3

    @staticmethod
    def _file(content: Any) -> Any:
        if not content or (content.get("bytes") is None and not content.get("path")):
            raise ValueError("no content")
        return io.BytesIO(content["bytes"]) if content.get("bytes") is not None else content["path"]

    def __call__(self, content: Any) -> np.ndarray | str:
        from PIL import Image, ImageOps

        try:
            with Image.open(self._file(content)) as file:
                picture = file.convert("L" if self.channels == 1 else "RGB")
            if self.size is not None and picture.size != (self.size, self.size):
                picture = ImageOps.fit(picture, (self.size, self.size))  # scaled, the rest cut around the centre
            array = np.array(picture)
        except Exception as error:  # Pillow raises whatever the format's reader stumbles over
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            return "not an image" if "cannot identify" in text else text
        return array[:, :, None] if array.ndim == 2 else array


def numbered(
    values: Sequence[Any], names: tuple[str, ...] | None, wanted: tuple[str, ...] | None, source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as numbers below the number of classes, and the classes' names."""
    missing = [i for i, v in enumerate(values) if v is None]
    if missing:
        raise StudyError(f"{len(missing)} labels are missing in {source}, the first in row {missing[0]}")
    if all(isinstance(v, str) for v in values):
        names = names or tuple(sorted(set(values)))
        values = [names.index(v) if v in names else -1 for v in values]
    numbers = torch.tensor([int(v) for v in values])
    if names is None:
        names = wanted or tuple(map(str, range(int(numbers.max()) + 1)))
    outside = (numbers < 0) | (numbers >= len(names))
    if outside.any():
        row = int(outside.nonzero()[0, 0])
        raise StudyError(
            f"{int(outside.sum())} labels in {source} are outside 0 to {len(names) - 1} ({len(names)} classes): "
            f"the first is {int(numbers[row])} in row {row}"
        )
    if wanted is not None and names != wanted:
        used = [names[i] for i in numbers.unique().tolist()]
        if unknown := [n for n in used if n not in wanted]:
            raise StudyError(f"{source} holds classes that training does not have: {_some(unknown)}")
        numbers = torch.tensor([wanted.index(n) if n in wanted else 0 for n in names])[numbers]
        names = wanted
    return numbers, names


def _some(names: Sequence[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def train_and_validation(
    source: str,
    *,
    validation: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> tuple[Images, Images, list[str]]:
    """Training and validation images of a data set; without a split for it, a stratified tenth is held out.

    Returns:
        Training images, validation images, names of images left out.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    splits, train_name, chosen = open_splits(source, validation)
    image, label = columns(splits[train_name], source, image, label)
    options: dict[str, Any] = {"image": image, "label": label, "size": size, "skip_bad": skip_bad}
    train, bad = decode(splits[train_name], f"{source} ({train_name})", channels=channels, **options)
    if chosen is None:
        count = max(len(train.classes), round(0.1 * len(train)))
        held, rest = train.stratified(count, seed)
        train, test = rest, held
    else:
        known = train.classes
        test, more = decode(splits[chosen], f"{source} ({chosen})", channels=train.shape[0], classes=known, **options)
        bad += more
        if train.shape != test.shape:
            raise StudyError(
                f"training images of {source} are {_times(train.shape)}, validation images {_times(test.shape)} "
                "(channels × height × width): choose one size with --size"
            )
    absent = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if absent:
        names = [train.classes[i] for i in absent]
        raise StudyError(
            f"{source}: validation holds {_some(names)}, of which training has no image: add some, or remove the class"
        )
    return train, test, bad


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
