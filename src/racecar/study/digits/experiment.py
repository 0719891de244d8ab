"""The digits study: its data, and Table 9's network."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.digits import nmnist
from racecar.study.images.load import train_and_validation

HUB = "ylecun/mnist"


def network(channels: int = 1, size: int = 28, classes: int = 10, width: int = 64) -> nn.Sequential:
    """Table 9: 38 645 weights for MNIST."""
    side = size // 4
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(width, width, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(width, 1, 3, padding=1),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(side * side, classes),
        )
    )


class Digits(Experiment):
    """MNIST → n-MNIST."""

    name = "digits"
    title = "Digits: MNIST, then MNIST with motion blur"
    head = "fc"
    delta = 0.005

    def load(
        self, source: str, config: ClassificationConfig, file: Path | None
    ) -> tuple[dict[str, Task], dict[str, str]]:
        """MNIST, and from :mod:`.nmnist` the published ``file`` or what is made from MNIST."""
        train, test = train_and_validation(HUB if source == "hub" else str(Path(source) / "mnist"), channels=1)
        if file is None:
            blurred, words = Task(nmnist.blurred(train), nmnist.blurred(test)), nmnist.MADE
        else:
            blurred, words = Task(*nmnist.read_mat(file)), "n-MNIST with motion blur, the published file"
        if len(train) == 60_000:  # the paper's 55 000, as TensorFlow divided MNIST: the first 5000 set aside
            train = train.take(torch.arange(5_000, 60_000))
        return {"A": Task(train, test), "B": blurred}, {"A": "MNIST", "B": words}

    def depth(self, config: ClassificationConfig) -> int:
        """Table 9's convolutions."""
        return 3

    def network(self, config: ClassificationConfig, channels: int, size: int, classes: int, seed: int) -> nn.Module:
        """Table 9's."""
        model = network(channels, size, classes, config.width)
        initialise_glorot(model, seed)
        return model
