"""``racecar evaluate``: how good a trained classifier is, in all and class by class, and how well it knows that."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from racecar.analysis import Calibration, calibration
from racecar.study.pretrain.source import Source
from racecar.study.use.labelled import Shown, labelled
from racecar.study.use.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class OfClass:
    """How one class fares.

    Attributes:
        name: of the class.
        images: of it.
        recall: share of them that are answered so; NaN without any.
        precision: share of such answers that are right; NaN without any.
        confused_with: the class that most of the others are taken for; None without any.
    """

    name: str
    images: int
    recall: float
    precision: float
    confused_with: str | None


@dataclass(frozen=True)
class Evaluation:
    """What :func:`racecar.study.evaluate` has measured.

    Attributes:
        words: which images these are.
        classes: names, by label.
        logits: [N, classes].
        labels: [N].
        names: of the images.
    """

    words: str
    classes: tuple[str, ...]
    logits: Tensor
    labels: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, network: Network, images: Shown) -> Evaluation:
        """Of a network that answers."""
        return cls(images.words, network.classes, network.logits(images.pixels), images.labels, images.names)

    def top(self, k: int) -> float:
        """Share of images whose class is among the first ``k`` answers."""
        best = self.logits.topk(min(k, len(self.classes)), 1).indices
        return float((best == self.labels[:, None]).any(1).double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the top-1 accuracy, for other images drawn as these were and the same network."""
        return wilson(self.top(1), len(self.labels))

    @property
    def balanced(self) -> float:
        """Mean recall of the classes that have an image."""
        recalls = [c.recall for c in self.per_class if c.images]
        return sum(recalls) / len(recalls)

    @property
    def cross_entropy(self) -> float:
        """Mean, in nats."""
        return float(F.cross_entropy(self.logits.double(), self.labels))

    @property
    def confusion(self) -> Tensor:
        """Images [classes, classes], by class (rows) and answer (columns)."""
        count = len(self.classes)
        place = self.labels * count + self.logits.argmax(1)
        return place.bincount(minlength=count * count).view(count, count)

    @property
    def per_class(self) -> list[OfClass]:
        """Class by class, in their order."""
        confusion = self.confusion
        right, images, answers = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        wrong = confusion - confusion.diagonal().diag()
        found = []
        for i, name in enumerate(self.classes):
            other = self.classes[int(wrong[i].argmax())] if int(wrong[i].sum()) else None
            recall, precision = (float(right[i] / n) if int(n) else math.nan for n in (images[i], answers[i]))
            found.append(OfClass(name, int(images[i]), recall, precision, other))
        return found

    @property
    def calibration(self) -> Calibration:
        """Accuracy by confidence, and the expected calibration error."""
        return calibration(self.logits, self.labels)

    def about(self) -> dict[str, Any]:
        """All numbers, as JSON holds them: NaN is null."""
        content = {
            "images": len(self.labels),
            "of": self.words,
            "top1": self.top(1),
            "top1_interval": list(self.interval),
            "top5": self.top(5),
            "balanced_accuracy": self.balanced,
            "cross_entropy": self.cross_entropy,
            "calibration": asdict(self.calibration),
            "classes": [asdict(c) for c in self.per_class],
            "confusion": self.confusion.tolist(),
        }
        return _null(content)  # type: ignore[no-any-return]

    def figure(self) -> Figure:
        """The confusion matrix and the reliability diagram."""
        from racecar.study.use.figures import evaluation

        return evaluation(self)


def evaluate(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str] | Source | None = None,
    *,
    model: str | None = None,
) -> Evaluation:
    """Measure a trained classifier.

    Args:
        run: the folder of a training.
        data: labelled images: a folder, a parquet file or a name on the hub; :class:`racecar.study.Source` says more of
            it. Classes go by their names. What is measured on is its validation split; without one, all images, unless
            the run was trained on them: then what it held out. None: the run's own validation images.
        model: its ``module:NAME``, to say that this code may be run; timm and torchvision need none.

    Raises:
        StudyError: run or data are not as they must be.
    """
    network = Network.open(run, model)
    return Evaluation.of(network, labelled(network, data))


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share of ``n``."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
