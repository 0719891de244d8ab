"""How good a classifier is, and what is known of its training after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from racecar import Racecar
from racecar.study.classification.batches import Data
from racecar.study.core.callbacks import QUIET


@dataclass(frozen=True)
class Point:
    """What is known after an epoch.

    Attributes:
        epoch: counted from 1.
        loss: mean cross entropy over the epoch's batches.
        penalty: mean penalty, λ included.
        train_accuracy: over the epoch, while the weights changed; None where labels are not asked for.
        accuracy: on the test images; None where it was not measured.
        seconds: of training, evaluation left out.
        top5: share of test images whose class is among the first five answers, measured with ``accuracy``.
        error: the penalty on the test images, in evaluation mode, where labels are not asked for.
    """

    epoch: int
    loss: float
    penalty: float
    train_accuracy: float | None
    accuracy: float | None
    seconds: float
    top5: float | None = None
    error: float | None = None

    @property
    def score(self) -> float:
        """By which epochs are compared: the accuracy, or the error's negative; more is better."""
        if self.error is not None:
            return -self.error
        return -1.0 if self.accuracy is None else self.accuracy


@torch.no_grad()
def accuracy(
    model: nn.Module,
    data: Data,
    *,
    batch: int = 1000,
    precision: torch.dtype | None = None,
    accelerator: Accelerator | None = None,
    alive: Callable[[], None] = QUIET.alive,
) -> tuple[float, float]:
    """Shares of test images whose class is the network's first answer, and among its first five.

    In evaluation mode; each of several processes looks at its share. ``alive`` is called after every batch.
    """
    training, rank, world = model.training, 0, 1
    device = next(model.parameters()).device
    if accelerator is not None:
        rank, world = accelerator.process_index, accelerator.num_processes
    model.eval()
    right = torch.zeros(2, device=device)
    for images, labels in data.tests(batch, rank, world):
        with torch.autocast(device.type, precision, enabled=precision is not None):
            output = model(images)
        hits = output.topk(min(5, output.shape[1]), 1).indices == labels[:, None]
        right += torch.stack([(output.argmax(1) == labels).sum(), hits.sum()])
        alive()
    model.train(training)
    if accelerator is not None and world > 1:
        right = accelerator.reduce(right)
    top1, top5 = (right / data.test_count).tolist()
    return top1, top5


@torch.no_grad()
def regeneration_error(
    rr: Racecar,
    data: Data,
    *,
    batch: int,
    precision: torch.dtype | None,
    accelerator: Accelerator,
    alive: Callable[[], None] = QUIET.alive,
) -> float:
    """The penalty, λ included, on the test images in evaluation mode: of an image, or summed over one's units.

    Each of several processes looks at its share. ``alive`` is called after every batch.
    """
    model = rr.model
    training, device = model.training, accelerator.device
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    for images, _ in data.tests(batch, accelerator.process_index, accelerator.num_processes):
        with torch.autocast(device.type, precision, enabled=precision is not None):
            _, distances = rr.distances(images)
        weight = 1 if rr.options.reduction == "sum" else len(images)
        total += (rr.lambdas * distances).sum().double() * weight
        alive()
    model.train(training)
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total)
    return float(total) / data.test_count
