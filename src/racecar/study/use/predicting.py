"""``racecar predict``: what a trained classifier takes pictures for."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from racecar.study.use.network import Network
from racecar.study.use.pictures import read_pictures


@dataclass(frozen=True)
class Predictions:
    """What :func:`racecar.study.predict` has found.

    Attributes:
        names: of the pictures.
        classes: names, by output.
        logits: [N, classes].
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    logits: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, [N, classes]; ``racecar evaluate`` measures how far they are right (calibration)."""
        return self.logits.softmax(1)

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """For every picture its ``k`` first answers, the best one first, with their probabilities."""
        best = self.probabilities.topk(min(k, len(self.classes)), 1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.classes[i], p) for i, p in zip(*row, strict=True)] for row in pairs]

    def csv(self, k: int = 1) -> str:
        """A line per picture: its name, then class and probability of its ``k`` first answers."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        found = self.top(k)
        columns = range(1, min(k, len(self.classes)) + 1)
        writer.writerow(["picture", *(f"{word}_{i}" for i in columns for word in ("class", "probability"))])
        for name, answers in zip(self.names, found, strict=True):
            writer.writerow([name, *(v for answer, p in answers for v in (answer, f"{p:.4f}"))])
        return text.getvalue()


def predict(
    run: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    model: str | None = None,
    skip_bad: bool = False,
) -> Predictions:
    """Say what pictures show.

    Args:
        run: the folder of a training.
        pictures: files, and folders of which all pictures count; cut to the network's size around the centre.
        model: the run's ``module:NAME``, to say that this code may be run; timm and torchvision need none.
        skip_bad: leave out what does not decode, instead of an error.

    Raises:
        StudyError: the run or a picture is not as it must be.
    """
    network = Network.open(run, model)
    paths = [pictures] if isinstance(pictures, str | os.PathLike) else pictures
    pixels, names = read_pictures(network, paths, skip_bad)
    return Predictions(names, network.classes, network.logits(pixels))
