"""Somebody's labelled images: where they lie and how they are read, for every command that takes ``--data``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation


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
    """

    data: str
    validation: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    skip_bad: bool = False

    @classmethod
    def of(cls, data: str | os.PathLike[str] | Source) -> Source:
        """The same, of what a caller in Python gives."""
        return data if isinstance(data, Source) else cls(os.fspath(data))

    def read(self, size: int | None = None, channels: int | None = None) -> tuple[Images, Images, list[str]]:
        """Training images, validation images, names of images left out.

        Args:
            size: pixels of the square images; None: as they are, which must be one size.
            channels: 1 (grey) or 3; None: as the images are.

        Raises:
            StudyError: whatever is wrong with the data, in one line.
        """
        return train_and_validation(
            self.data,
            validation=self.validation,
            image=self.image_column,
            label=self.label_column,
            size=size,
            channels=channels,
            skip_bad=self.skip_bad,
        )
