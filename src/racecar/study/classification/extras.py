"""What users add to a recipe: which weights are kept, when to stop, averaging, clipping, a rate for every block.

None of the paper's studies has it; every default leaves a training as it is without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from racecar.study.classification.augmentation import Augmentation, by_torchvision, erased, mixed, transforms
from racecar.study.classification.evaluation import Point
from racecar.study.core.errors import StudyError


@dataclass(frozen=True)
class Extras:
    """Beside a :class:`.recipe.Recipe`.

    Attributes:
        keep: ``"last"``: the last epoch's weights; ``"best"``: those of the epoch with the best validation accuracy,
            the first of equal ones. An accuracy that chose its epoch is a little too high.
        patience: epochs without a better validation accuracy after which training stops; 0: never.
        ema: β of an exponential moving average of the weights, which is measured and kept in their place; 0: none.
        clip: the longest gradient, norm over all weights, of cross entropy and penalty together; 0: any.
        layer_decay: the learning rate of every block of layers is that of the next one times this; 1: all the same.
        class_weights: ``"balanced"``: a class weighs as if all were equally frequent; or names with weights, such as
            ``cat=2,dog=0.5``, the others 1.
        erasing: the share of images of which a rectangle is erased.
        mixup: α of mixup: images and labels are mixed in a proportion from Beta(α, α); 0: not.
        cutmix: α of cutmix, a rectangle of one image in another; with mixup as well one of them is drawn for a batch.
    """

    keep: Literal["last", "best"] = "last"
    patience: int = 0
    ema: float = 0.0
    clip: float = 0.0
    layer_decay: float = 1.0
    class_weights: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, not {self.patience}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, not {self.ema}")
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"clip must not be negative, not {self.clip}")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"erasing must be at least 0 and at most 1, not {self.erasing}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, not {self.layer_decay}")

    def chosen(self) -> dict[str, Any]:
        """What is not as by default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def stored(self) -> dict[str, Any]:
        """For a folder's configuration, where folders of before there were extras have nothing."""
        return {"extras": chosen} if (chosen := self.chosen()) else {}

    def augmented(
        self, batch: Tensor, labels: Tensor, classes: int, size: int, seed: int, rank: int, world: int
    ) -> tuple[Tensor, Tensor]:
        """A batch as the network sees it: erased, then mixed.

        Args:
            batch: [n, C, H, W], normalised; may be changed in place.
            labels: [n].
            classes: how many there are.
            size: of the largest batch over all processes.
            seed: of the step.
            rank, world: this process, whose images are every ``world``-th of the batch, and how many there are. Images
                are mixed with those of the same process.

        Returns:
            Images and labels, these as probabilities [n, classes] where they are mixed.
        """
        if not (self.erasing or self.mixup or self.cutmix):
            return batch, labels
        draw = torch.Generator().manual_seed(seed)
        mixing, *_ = seeds = torch.randint(2**32, (1 + size,), generator=draw)
        if self.erasing:
            batch = erased(batch, self.erasing, seeds[1 + rank :: world][: len(batch)])
        if self.mixup or self.cutmix:
            return mixed(batch, labels, classes, self.mixup, self.cutmix, int(mixing))
        return batch, labels

    def check_libraries(self, augmentation: Augmentation) -> None:
        """Before anything costly, whether what was asked for is installed.

        Raises:
            StudyError: torchvision is not.
        """
        asked = {name: getattr(self, name) for name in ("erasing", "mixup", "cutmix")}
        asked[f"augmentation {augmentation}"] = by_torchvision(augmentation)
        for option, value in asked.items():
            if value:
                transforms(f"--{option}")

    def kept(self, history: Sequence[Point]) -> Point:
        """The epoch whose weights are kept."""
        return best_of(history) if self.keep == "best" else history[-1]

    def exhausted(self, history: Sequence[Point]) -> bool:
        """Whether the last ``patience`` epochs have brought nothing better."""
        return bool(self.patience and history) and history[-1].epoch - best_of(history).epoch >= self.patience

    def scales(self, model: nn.Module) -> dict[Tensor, float]:
        """Factors of the learning rate by parameter; empty: all 1."""
        if self.layer_decay == 1:
            return {}
        found = blocks(model)
        return {p: self.layer_decay ** (len(found) - 1 - i) for i, block in enumerate(found.values()) for p in block}

    def weights(self, classes: Sequence[str], labels: Tensor) -> tuple[float, ...] | None:
        """Of the classes in the cross entropy; their mean over the training images is 1. None: all 1.

        Args:
            classes: names, by label.
            labels: [N], of the training images.

        Raises:
            StudyError: a class that is not there, or a weight that is none.
        """
        if self.class_weights is None:
            return None
        counts = labels.bincount(minlength=len(classes)).tolist()
        if self.class_weights == "balanced":
            own = [1 / n if n else 0.0 for n in counts]
        else:
            given = _given(self.class_weights, classes)
            own = [given.get(name, 1.0) for name in classes]
        mean = sum(w * n for w, n in zip(own, counts, strict=True)) / sum(counts)
        if not mean:
            raise StudyError("class weights: every class with training images has the weight 0")
        return tuple(w / mean for w in own)


PLAIN = Extras()


def best_of(history: Sequence[Point]) -> Point:
    """The epoch with the best accuracy, or the smallest error where that is measured, the first of equal ones."""
    return max(history, key=lambda p: p.score)


def blocks(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """A model's parameters by block of layers, in the order in which the model names them.

    A block is what is numbered first in a name (``layer1.0`` of a ResNet, ``blocks.3`` of a ViT), else the module at
    the top. Norms without a matrix of their own belong to the block before; a model's own parameters, such as tokens,
    belong to the first one.
    """
    found: dict[str, list[nn.Parameter]] = {}
    loose: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        words = name.split(".")[:-1]
        number = next((i for i, word in enumerate(words) if word.isdigit()), 0)
        if words:
            found.setdefault(".".join(words[: number + 1]), []).append(parameter)
        else:
            loose.append(parameter)
    whole: dict[str, list[nn.Parameter]] = {}
    for name, own in found.items():
        if whole and all(p.ndim < 2 for p in own):
            whole[list(whole)[-1]] += own
        else:
            whole[name] = own
    if whole:
        next(iter(whole.values())).extend(loose)
    else:
        whole = {"": loose}
    return whole


def _given(text: str, classes: Sequence[str]) -> dict[str, float]:
    """``name=weight`` with commas between them."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (w.strip() for w in part.rpartition("="))
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] < math.inf:
            raise StudyError(f"class weights: {part!r} is no name=weight; give balanced, or such as cat=2,dog=0.5")
        if name not in classes:
            raise StudyError(f"class weights: no class {name!r}; there are {', '.join(classes[:20])}")
    return found
