"""Networks that a user might bring; imported by name, as ``small_nets:Net``."""

import torch
from torch import Tensor, nn


def _net(norm: bool, classes: int, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Dropout(0.1 if norm else 0.0),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def net(num_classes: int = 10) -> nn.Module:
    """With batch norm and dropout: whatever a resumed run could get wrong."""
    return _net(True, num_classes)


def plain(num_classes: int = 10) -> nn.Module:
    """Without batch norm: every image counts by itself, so processes can share a batch exactly."""
    return _net(False, num_classes)


def three() -> nn.Module:
    """Takes no number of classes."""
    return _net(False, 3)


def headless(num_classes: int = 10) -> nn.Module:
    """No layer has one output per class."""
    return nn.Sequential(nn.Conv2d(3, 2 * num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.GLU())


class Hungry(nn.Module):
    """Runs out of memory on more than 4 images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = _net(False, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB")
        return self.net(x)
