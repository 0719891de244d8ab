"""The VGG-like network of Table 11, and the smaller, faster one of the strong recipe."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

# Convolutions per block, each block ending in max pooling but the last.
BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def table_11(classes: int = 10, width: int = 64, channels: int = 3, size: int = 32) -> nn.Sequential:
    """13 convolutions and three fully connected layers, each with batch norm and ReLU, the last one too.

    Args:
        classes: outputs.
        width: channels of the first convolution, 64 in the paper; the other layers scale with it.
        channels, size: of the input.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    number, before = 0, channels
    for i, block in enumerate(BLOCKS):
        for factor in block:
            number += 1
            after = factor * width
            layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1)
            layers[f"bn{number}"] = _norm(nn.BatchNorm2d(after))
            layers[f"relu{number}"] = nn.ReLU()
            before = after
        if i + 1 < len(BLOCKS):
            layers[f"pool{i + 1}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    before *= (size // 16) ** 2
    for number in (14, 15):
        layers[f"fc{number}"] = nn.Sequential(
            nn.Linear(before, 64 * width), _norm(nn.BatchNorm1d(64 * width)), nn.ReLU()
        )
        before = 64 * width
    layers["head"] = nn.Sequential(nn.Linear(before, classes), _norm(nn.BatchNorm1d(classes)), nn.ReLU())
    return nn.Sequential(layers)


def _norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """TensorFlow's epsilon, as the authors' code has it (its decay of 0.9 is torch's momentum of 0.1)."""
    norm.eps = 1e-3
    return norm


def strong(classes: int = 10, width: int = 64, channels: int = 3) -> nn.Sequential:
    """Seven convolutions with batch norm and GELU, 172 million multiply-adds at width 64: made for few epochs.

    The shape follows the networks of Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", without their
    frozen whitening layer.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(width)
    layers["act1"] = nn.GELU()
    before, number = width, 1
    for block, factor in enumerate((1, 4, 4), start=1):
        after = factor * width
        for first in (True, False):
            number += 1
            layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1, bias=False)
            if first:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
            layers[f"bn{number}"] = nn.BatchNorm2d(after)
            layers[f"act{number}"] = nn.GELU()
            before = after
    layers["pool"] = nn.AdaptiveMaxPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(before, classes)
    return nn.Sequential(layers)


def initialise_strong(model: nn.Module, seed: int) -> None:
    """Kaiming-normal weights; a convolution begins as the identity on as many channels as it can (Dirac)."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            if isinstance(module, nn.Conv2d) and name != "conv1":
                nn.init.dirac_(module.weight[: module.in_channels])
            if module.bias is not None:
                nn.init.zeros_(module.bias)
