"""Labelled images in memory: uint8, of one size; drawn from, measured, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors, write_tensors
from racecar.study.images.labelled import Change, Labelled


@dataclass(frozen=True)
class Images(Labelled):
    """Labelled images of one size.

    Attributes:
        pixels: [N, C, H, W], uint8.
        labels: [N], int64, from 0 to the number of classes - 1.
        classes: the classes' names, by label.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])  # type: ignore[return-value]

    def to(self, device: torch.device) -> Images:
        """The same images on a device.

        Raises:
            StudyError: they do not fit into its memory.
        """
        try:
            return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))
        except torch.OutOfMemoryError as error:
            size = self.pixels.numel() / 2**30
            raise StudyError(
                f"{len(self)} images take {size:.1f} GiB, more than is free on {device}: have them decoded on the way "
                "with --stream, or use a smaller --size"
            ) from error

    def take(self, indices: Tensor) -> Images:
        """Some of the images."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def batches(
        self, chosen: Sequence[Tensor], change: Change | None = None, seeds: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """See :class:`racecar.study.images.labelled.Labelled`."""
        for number, rows in enumerate(chosen):
            pixels = self.pixels[rows]
            yield pixels if change is None or seeds is None else change(pixels, seeds=seeds[number])

    def write(self, path: Path) -> None:
        """Keep the decoded images, as safetensors."""
        names = torch.frombuffer(bytearray(json.dumps(self.classes).encode()), dtype=torch.uint8)
        write_tensors(path, {"pixels": self.pixels, "labels": self.labels, "class_names": names})

    @classmethod
    def read(cls, path: Path) -> Images:
        """The inverse of :meth:`write`; files of before hold a name a line."""
        tensors = read_tensors(path)
        if (names := tensors.get("class_names")) is not None:
            classes = tuple(json.loads(bytes(names.tolist())))
        else:
            classes = tuple(bytes(tensors["classes"].tolist()).decode().split("\n"))
        return cls(tensors["pixels"], tensors["labels"], classes)
