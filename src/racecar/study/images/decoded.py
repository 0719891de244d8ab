"""Labelled images in memory: uint8, of one size; drawn from, measured, kept in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors, write_tensors
from racecar.study.images.splits import balanced_order


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: [N, C, H, W], uint8.
        labels: [N], int64, from 0 to the number of classes - 1.
        classes: the classes' names, by label.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

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
                f"{len(self)} images take {size:.1f} GiB, more than is free on {device}: use a smaller --size or "
                "fewer images"
            ) from error

    def take(self, indices: Tensor) -> Images:
        """Some of the images."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def stratified(self, count: int, seed: int) -> tuple[Images, Images]:
        """(``count`` images with as equal a share of every class as there is, the other images), drawn by a seed.

        Raises:
            StudyError: fewer images than that, or than classes.
        """
        if not len(self.classes) <= count <= len(self):
            raise StudyError(
                f"cannot draw {count} of {len(self)} images with {len(self.classes)} classes: ask for at least one "
                "image per class and at most all"
            )
        order = balanced_order(self.labels, seed)
        return self.take(order[:count].sort().values), self.take(order[count:].sort().values)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of pixels between 0 and 1."""
        sums = [(p.double().sum(), p.double().square().sum()) for p in self.pixels.unbind(1)]
        count = self.pixels[:, 0].numel()
        mean = [float(s) / count / 255 for s, _ in sums]
        spread = [max(float(q) / count / 255**2 - m * m, 1e-8) ** 0.5 for (_, q), m in zip(sums, mean, strict=True)]
        return tuple(mean), tuple(spread)

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
