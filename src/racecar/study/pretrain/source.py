"""Somebody's labelled images: where they lie and how they are read, for every command that takes ``--data``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from racecar.study.images.find import to_stderr
from racecar.study.images.load import Loaded, load


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
    """

    data: str
    validation: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad: bool = False
    labels_file: str | None = None

    @classmethod
    def of(cls, data: str | os.PathLike[str] | Source) -> Source:
        """The same, of what a caller in Python gives."""
        return data if isinstance(data, Source) else cls(os.fspath(data))

    def config(self) -> dict[str, Any]:
        """For a folder's configuration; those of before know no labels file."""
        return {k: v for k, v in asdict(self).items() if k != "labels_file" or v is not None}

    def read(
        self,
        size: int | None = None,
        channels: int | None = None,
        tell: Callable[[str], None] = to_stderr,
        *,
        labelled: bool = True,
    ) -> Loaded:
        """The images, decoded, and what was found.

        Args:
            size: pixels of the square images; None: as they are, which must be one size.
            channels: 1 (grey) or 3; None: as the images are.
            tell: called with what was found, before it is decoded, and with what is left out.
            labelled: whether labels are wanted.

        Raises:
            StudyError: whatever is wrong with the data, in one line.
        """
        return load(
            self.data,
            validation=self.validation,
            labels_file=self.labels_file,
            image=self.image_column,
            label=self.label_column,
            size=size,
            channels=channels,
            skip_bad=self.skip_bad,
            labelled=labelled,
            tell=tell,
        )
