"""The images of a training: read as its folder says, their normalisation, and whether they are still the same."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from racecar.study.classification.batches import Normalisation, Sets
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import read_description
from racecar.study.images.decoded import Images
from racecar.study.images.find import to_stderr
from racecar.study.images.labelled import MANY, Labelled
from racecar.study.images.load import Loaded
from racecar.study.pretrain.source import Source


@dataclass(frozen=True)
class Data(Sets[Labelled]):
    """Images to train and measure on.

    Attributes:
        listed: what changes with the files they are from, see :meth:`racecar.study.images.load.Loaded.listed`.
    """

    listed: tuple[int, ...] = ()

    def fingerprints(self) -> dict[str, list[int]]:
        """What changes with the images: ``"listed"`` with the names, sizes in bytes and labels of files; of those held
        in memory also ``"images"``, with every pixel.
        """
        counts = [len(self.train), len(self.test)]
        found = {"listed": [*counts, *self.listed, _checksum(self.train.labels)]}
        if isinstance(self.train, Images) and isinstance(self.test, Images):
            parts = (self.train.pixels, self.train.labels, self.test.pixels, self.test.labels)
            found["images"] = [*counts, *map(_checksum, parts)]
        return found


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.cpu().contiguous().numpy().data)


def read(
    source: Source,
    size: int | None,
    channels: int | None,
    *,
    folder: Path,
    accelerator: Accelerator,
    labelled: bool = True,
) -> Loaded[Labelled]:
    """The images of a training, on its device: on the way if they do not fit into memory, or if it began so.

    Args:
        source, size, channels, labelled: see :meth:`Source.read`.
        folder: of the training.
        accelerator: device and processes.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    return replace(source, stream=source.stream or _began_streamed(folder)).read(
        size,
        channels,
        teller(accelerator),
        labelled=labelled,
        device=accelerator.device,
        sharing=int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)),
    )


def check_images(folder: Path, known: Mapping[str, Any], now: Mapping[str, list[int]]) -> None:
    """That a folder began with these images, by what it knows of them: pixels, or else their files.

    Args:
        folder: for messages.
        known: the content of its study.json.
        now: see :meth:`Data.fingerprints`.

    Raises:
        StudyError: it did not.
    """
    kind = next((k for k in ("images", "listed") if k in known and k in now), None)
    if kind is None:
        if "images" in known:
            raise StudyError(f"{folder} knows the pixels of its images, but not their files: go on without --stream")
        return
    before, here = known[kind], now[kind]
    if before != here:
        other = "other content" if kind == "images" else "other files"
        raise StudyError(
            f"the images are not those that {folder} began with ({before[0]} + {before[1]} then, {here[0]} + {here[1]} "
            f"now, or {other}): bring them back, or choose another --out"
        )


def _began_streamed(folder: Path) -> bool:
    """Whether the images of an unfinished training are decoded on the way."""
    path = folder / "study.json"
    known = read_description(path) if path.exists() else {}
    return "listed" in known and "images" not in known


def normalisation_of(
    accelerator: Accelerator, folder: Path, images: Labelled, tell: Callable[[str], None]
) -> Normalisation:
    """Mean 0 and deviation 1 over training images: what the folder began with, else measured."""
    path = folder / "study.json"
    found: list[Any] = [(read_description(path) if path.exists() else {}).get("normalisation")]
    if found[0] is None and isinstance(images, Images):
        return Normalisation.of(images)
    if found[0] is None and accelerator.is_main_process:
        tell(f"{min(len(images), MANY)} images are decoded first, for their mean and deviation")
        found = [asdict(Normalisation.of(images))]
    broadcast_object_list(found)
    return Normalisation(tuple(found[0]["mean"]), tuple(found[0]["std"]))


def teller(accelerator: Accelerator) -> Callable[[str], None]:
    """What tells the user of the data, from the main process."""
    return to_stderr if accelerator.is_main_process else lambda text: None
