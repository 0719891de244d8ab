"""A trained classifier, opened to be used: the network, what its ``model.json`` says, and how it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from racecar import Racecar
from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.pretrain import checkpoint

BATCH = 256  # images at a time


@dataclass(frozen=True)
class Network:
    """A trained classifier in evaluation mode.

    Attributes:
        folder: it was read from.
        about: the content of ``model.json``, see :mod:`racecar.study.pretrain.checkpoint`.
        model: with its weights, on the accelerator if there is one.
    """

    folder: Path
    about: Mapping[str, Any]
    model: nn.Module

    @classmethod
    def open(cls, run: str | os.PathLike[str], model: str | None = None) -> Network:
        """What ``racecar train``, or one training of ``racecar transfer``, wrote.

        Args:
            run: its folder.
            model: its ``module:NAME``, to say that this code may be run; timm and torchvision need none.

        Raises:
            StudyError: no checkpoint there, damaged, or code that was not named.
        """
        folder = Path(run)
        network, about = checkpoint.open_checkpoint(folder, model)
        there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return cls(folder, about, network.to(there or "cpu").eval())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by output."""
        return tuple(self.about["classes"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return tuple(self.about["input"][k] for k in ("channels", "height", "width"))  # type: ignore[return-value]

    @property
    def size(self) -> int | None:
        """Pixels of its square images; None: they are no squares, and no image is cut to their size."""
        _, height, width = self.shape
        return height if height == width else None

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next((t.device for t in (*self.model.parameters(), *self.model.buffers())), torch.device("cpu"))

    @property
    def normalisation(self) -> Normalisation:
        """Of the images it was trained on."""
        return checkpoint.normalisation(dict(self.about))

    def seen(self, pixels: Tensor) -> Tensor:
        """What the network sees of pixels [N, C, H, W] in uint8: float32, on its device."""
        return self.normalisation(pixels.to(self.device))

    @torch.no_grad()
    def logits(self, pixels: Tensor, batch: int = BATCH) -> Tensor:
        """Answers [N, classes] in float32 on the CPU, to pixels [N, C, H, W] in uint8.

        Raises:
            StudyError: they hold NaN or infinity, memory does not suffice, or the network was trained without labels.
        """
        if self.about.get("task") == "reconstruct":
            raise StudyError(
                f"{self.folder} was trained to reconstruct and knows no classes: put a last layer on by racecar "
                "transfer, or use its features by racecar embed"
            )
        try:
            found = [self.model(self.seen(part)).float().cpu() for part in pixels.split(batch)]
        except torch.OutOfMemoryError as error:
            raise StudyError(f"out of memory on {self.device} with {batch} images at a time") from error
        logits = torch.cat(found) if found else torch.zeros(0, len(self.classes))
        if not logits.isfinite().all():
            raise StudyError(f"{self.folder} answers with NaN or infinity: its training has diverged")
        return logits

    def racecar(self, pixels: Tensor) -> tuple[Racecar, str]:
        """The network with the reverse pass that it was trained with, and words for that.

        One that was trained plainly gets the default one.

        Args:
            pixels: like those it is for, [N, C, H, W] in uint8.

        Raises:
            RacecarError: no palindrome of it.
        """
        how = self.about.get("racecar")
        chosen = {} if how is None else {k: how[k] for k in ("layers", "start", "reduction") if k in how}
        words = "trained plainly, without its reverse pass" if how is None else "trained with its reverse pass"
        weight = how["weight"] if how is not None and isinstance(how["weight"], float) else 1.0
        return Racecar(self.model, self.seen(pixels[:2]), weight=weight, **chosen), words
