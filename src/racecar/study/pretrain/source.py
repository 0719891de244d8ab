"""Somebody's labelled images: where they lie and how they are read, for every command that takes ``--data``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from racecar.study.images.find import to_stderr
from racecar.study.images.fitting import load_fitting
from racecar.study.images.labelled import Labelled
from racecar.study.images.load import Loaded


@dataclass(frozen=True)
class Source:
    """A data set as a user names it.

    Attributes:
        data: a name on the Hugging Face hub, a folder with one folder of images per class (directly or below train/ and
            test/), a folder with parquet files, or a .parquet file.
        validation: split to measure on (default: validation or test, else a tenth).
        image_column: column with the images, if not the only one.
        label_column: column with the labels, if not the only one.
        skip_bad: go on without images that do not decode.
        labels_file: CSV, TSV or JSON lines that name the images of the folder and their labels (path, label).
        stream: decode images while the network trains; else that is done if they do not fit into memory. It makes no
            difference to the batches.
        decoders: processes that decode then (default: one for every core but one, at most 8).
    """

    data: str
    validation: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad: bool = False
    labels_file: str | None = None
    stream: bool = False
    decoders: int | None = None

    def __post_init__(self) -> None:
        if self.decoders is not None and self.decoders < 0:
            raise ValueError(f"--decoders must not be negative, not {self.decoders}")

    @classmethod
    def of(cls, data: str | os.PathLike[str] | Source) -> Source:
        """The same, of what a caller in Python gives."""
        return data if isinstance(data, Source) else cls(os.fspath(data))

    def config(self) -> dict[str, Any]:
        """What decides what is trained, for a folder's configuration; those of before know no labels file."""
        found = {k: v for k, v in asdict(self).items() if k not in ("stream", "decoders")}
        return {k: v for k, v in found.items() if k != "labels_file" or v is not None}

    def read(
        self,
        size: int | None = None,
        channels: int | None = None,
        tell: Callable[[str], None] = to_stderr,
        *,
        labelled: bool = True,
        device: torch.device | None = None,
        sharing: int = 1,
    ) -> Loaded[Labelled]:
        """The images, on a device, and what was found.

        Args:
            size: pixels of the square images; None: as they are, which must be one size.
            channels: 1 (grey) or 3; None: as the images are.
            tell: called with what was found, before it is decoded, and with what is left out.
            labelled: whether labels are wanted.
            device, sharing: see :func:`racecar.study.images.fitting.load_fitting`.

        Raises:
            StudyError: whatever is wrong with the data, in one line.
        """
        return load_fitting(
            self.data,
            validation=self.validation,
            labels_file=self.labels_file,
            image=self.image_column,
            label=self.label_column,
            size=size,
            channels=channels,
            skip_bad=self.skip_bad,
            labelled=labelled,
            stream=self.stream or None,
            decoders=self.decoders,
            device=device,
            sharing=sharing,
            tell=tell,
        )
