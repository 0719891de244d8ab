"""The study's images, made in memory, and its network."""

from collections import OrderedDict

import torch
from torch import nn

from racecar.study.classification.experiment import Experiment, Task
from racecar.study.images.decoded import Images


def images(count: int, classes: int) -> Images:
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 100, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    pixels[torch.arange(count), 0, labels] += 120
    return Images(pixels, labels, tuple(map(str, range(classes))))


class Rows(Experiment):
    name, title, head = "rows", "Rows", "fc"

    def load(self, source, config, file):
        tasks = {"A": Task(images(60, 4), images(20, 4)), "B": Task(images(66, 6), images(24, 6))}
        return tasks, {"A": "four rows", "B": "six rows"}

    def depth(self, config):
        return 2

    def network(self, config, channels, size, classes, seed):
        torch.manual_seed(seed)
        layers = OrderedDict(
            conv1=nn.Conv2d(channels, config.width, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(config.width, 4, 3, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, classes),
        )
        return nn.Sequential(layers)
