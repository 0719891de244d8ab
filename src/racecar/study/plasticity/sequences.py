"""Tasks that follow one another. A task is a function of (seed, its number), so that a stopped chain goes on alike."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.network import conv_net, mlp

HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def seed_of(*what: object) -> int:
    """A seed for what is named by some words and numbers."""
    return zlib.crc32(repr(what).encode())


def drawn(*what: object) -> torch.Generator:
    """A generator with that seed."""
    return torch.Generator().manual_seed(seed_of(*what))


@dataclass(frozen=True)
class Task:
    """What a network learns next.

    Attributes:
        inputs: [N, …], float32.
        labels: [N].
        test_inputs, test_labels: what it is measured on; None: on its training images, over the last epoch.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor | None = None
    test_labels: Tensor | None = None


class Sequence(ABC):
    """A chain of tasks.

    Args:
        train, test: images of all tasks, as :func:`load` gives them.
        config: of the study.

    Attributes:
        classes: outputs of the network.
        new_head: whether every task begins with a head drawn anew.
        words: what a task is and how it is measured, for the report.
    """

    new_head: ClassVar[bool] = False
    words: ClassVar[str]

    def __init__(self, train: Images, test: Images, config: PlasticityConfig) -> None:
        self.train, self.test, self.config = train, test, config
        self.inputs, self.test_inputs = self._normalised(train), self._normalised(test)
        self.classes = len(train.classes)

    def _normalised(self, images: Images) -> Tensor:
        """Averaged over 2 × 2 pixels; mean 0 and deviation 1 per channel over the training images."""
        reference, pixels = (F.avg_pool2d(i.pixels.float() / 255, 2) for i in (self.train, images))
        mean, sd = (f(reference, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
        return (pixels - mean) / sd

    def network(self) -> nn.Sequential:
        """One with weights from torch's global generator."""
        return mlp(self.classes)

    @abstractmethod
    def task(self, seed: int, number: int) -> Task:
        """The task of a number, from 0."""


class RandomLabels(Sequence):
    """The same images with labels that mean nothing."""

    words = "a task is new random labels for the same images, accuracy on these images over the task's last epoch"

    def task(self, seed: int, number: int) -> Task:
        """New labels."""
        labels = torch.randint(self.classes, (len(self.train),), generator=drawn("labels", seed, number))
        return Task(self.inputs.flatten(1), labels)


class PermutedPixels(Sequence):
    """The same images with their pixels in another order."""

    words = "a task is a new permutation of the pixels, accuracy on test images"

    def task(self, seed: int, number: int) -> Task:
        """A new permutation, the same for training and test images."""
        order = torch.randperm(self.inputs[0].numel(), generator=drawn("pixels", seed, number))
        train, test = (i.flatten(1)[:, order] for i in (self.inputs, self.test_inputs))
        return Task(train, self.train.labels, test, self.test.labels)


class ClassSequence(Sequence):
    """Groups of classes, one after the other."""

    new_head = True
    words = "a task is classes that were not there before with a new head, accuracy on test images"

    def __init__(self, train: Images, test: Images, config: PlasticityConfig) -> None:
        super().__init__(train, test, config)
        self.classes = config.classes

    def network(self) -> nn.Sequential:
        """The conv net."""
        return conv_net(self.classes)

    def task(self, seed: int, number: int) -> Task:
        """The next classes in an order of the seed's own."""
        order = torch.randperm(len(self.train.classes), generator=drawn("classes", seed))
        wanted = order[number * self.classes : (number + 1) * self.classes]
        parts = []
        for images, inputs in ((self.train, self.inputs), (self.test, self.test_inputs)):
            where = (images.labels[:, None] == wanted).nonzero()  # of every image in the group, its place there
            parts += [inputs[where[:, 0]], where[:, 1]]
        return Task(*parts)


KINDS: dict[str, type[Sequence]] = {
    "random-labels": RandomLabels,
    "permuted-pixels": PermutedPixels,
    "class-sequence": ClassSequence,
}


def dataset(config: PlasticityConfig) -> str:
    """The name of the data set whose images the tasks have."""
    return config.dataset if config.sequence == "class-sequence" else "mnist"


def load(source: str, config: PlasticityConfig) -> tuple[Images, Images]:
    """The images of all tasks, as equal a share of every class as there is: for training and for tests.

    Args:
        source: a folder with one folder per data set, or ``"hub"``.
        config: how many.

    Raises:
        StudyError: no such data, or fewer than are asked for.
    """
    name = dataset(config)
    train, test = train_and_validation(HUB[name] if source == "hub" else str(Path(source) / name))
    groups = 1
    if config.sequence == "class-sequence":
        if config.tasks * config.classes > len(train.classes):
            raise StudyError(
                f"{NAMES[name]} has {len(train.classes)} classes, too few for {config.tasks} tasks of "
                f"{config.classes}: ask for fewer with --tasks or --classes, or for another --dataset"
            )
        groups = len(train.classes) // config.classes
    chosen, _ = train.stratified(config.train_images * groups, 0)
    tests, _ = test.stratified(min(config.test_images * groups, len(test)), 0)
    return chosen, tests
