"""A small fully convolutional network: from two past frames to the change of density."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from racecar.study.core.initialisation import initialise_glorot

PAST = 2  # frames that are seen: density, and how it has moved
DEPTH = 5  # convolutions before the last one, which racecar training may compare
START = f"body.relu{DEPTH}"  # of the reverse pass


class Forecaster(nn.Module):
    """``head(body(x))``: five convolutions of 3 × 3 with ReLU, and a linear one, which sees 13 × 13 around a cell.

    Args:
        width: channels of the hidden layers.
        seed: of Glorot's weights.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, DEPTH + 1):
            layers[f"conv{number}"] = nn.Conv2d(PAST if number == 1 else width, width, 3, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
        self.body = nn.Sequential(layers)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        initialise_glorot(self, seed)

    def forward(self, past: Tensor) -> Tensor:
        """Standardised past [N, 2, h, w] → change of density [N, 1, h, w], in the task's unit."""
        change: Tensor = self.head(self.body(past))
        return change
