"""The networks of the plasticity study: an MLP for MNIST, a small conv net for CIFAR, both of images averaged 2 × 2."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

FEATURES = "relu3"  # the last hidden layer: the reverse pass begins here, so that a new head changes nothing of it
HEAD = "head."
DEPTH = 3  # layers before the head


def mlp(classes: int) -> nn.Sequential:
    """196-128-64-32 and a head."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(196, 128),
            relu1=nn.ReLU(),
            fc2=nn.Linear(128, 64),
            relu2=nn.ReLU(),
            fc3=nn.Linear(64, 32),
            relu3=nn.ReLU(),
            head=nn.Linear(32, classes),
        )
    )


def conv_net(classes: int) -> nn.Sequential:
    """Three convolutions over 16 × 16 pixels, pooled twice, and a head."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(32, 32, 3, padding=1),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            head=nn.Linear(512, classes),
        )
    )


def features(model: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    """The last hidden layer's activations, [N, units]."""
    for name, module in model.named_children():
        inputs = module(inputs)
        if name == FEATURES:
            return inputs.flatten(1)
    raise AssertionError(f"no module {FEATURES}")
