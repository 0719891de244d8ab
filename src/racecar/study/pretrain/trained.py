"""A finished training: its folder, and what its ``model.json`` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from racecar.study.classification.evaluation import Point
from racecar.study.core.errors import StudyError
from racecar.study.pretrain import checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trained:
    """What :func:`racecar.study.train` has made; a path where one is asked for.

    Attributes:
        folder: with ``model.safetensors``, the plain model's state_dict, ``model.json`` and TensorBoard's log.
        before: whether an earlier call had finished it.
    """

    folder: Path
    before: bool = False

    def __fspath__(self) -> str:
        return str(self.folder)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """The content of ``model.json``, see :mod:`racecar.study.pretrain.checkpoint`.

        Raises:
            StudyError: it is gone or damaged.
        """
        return checkpoint.read_metadata(self.folder)

    @property
    def accuracy(self) -> float:
        """Share of validation images that the kept weights answer right.

        Raises:
            StudyError: it was trained without labels.
        """
        if self.task == "reconstruct":
            raise StudyError(f"{self.folder} was trained to reconstruct, without labels: it has no accuracy")
        return float(self.about["accuracy"])

    @property
    def task(self) -> str:
        """``"classify"``, or ``"reconstruct"`` for a training without labels."""
        return str(self.about.get("task") or "classify")

    @property
    def error(self) -> float | None:
        """The penalty on the validation images, of what was trained to reconstruct."""
        return self.about.get("error")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by output."""
        return tuple(self.about["classes"])

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, evaluation left out."""
        return float(self.about["seconds_per_epoch"])

    @property
    def history(self) -> list[Point]:
        """What was measured after every epoch."""
        known = {f.name for f in fields(Point)}
        return [Point(**{k: v for k, v in p.items() if k in known}) for p in self.about["history"]]

    @property
    def weights(self) -> Path:
        """The plain model's ``state_dict``, as safetensors."""
        return self.folder / "model.safetensors"

    @property
    def how_to_load(self) -> str:
        """Lines of Python that load the model without racecar."""
        return checkpoint.how_to_load(self.folder, dict(self.about))

    def load(self, model: str | None = None) -> nn.Module:
        """The network with its weights, on the CPU, in training mode.

        Args:
            model: its ``module:NAME``, where it is neither timm's nor torchvision's, to say that this code may be run.

        Raises:
            StudyError: damaged, or code that was not named.
        """
        return checkpoint.open_checkpoint(self.folder, model)[0]

    def curves(self) -> Figure:
        """Loss, penalty and accuracies by epoch."""
        from racecar.study.pretrain.figures import curves

        return curves(self.history)
