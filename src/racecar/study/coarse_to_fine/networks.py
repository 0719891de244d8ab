"""The networks of the pairs: a body whose output is the features, a projector where a method wants one, and a head."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from racecar.study.cifar.network import initialise_strong, strong
from racecar.study.coarse_to_fine.pairs import Network
from racecar.study.core.initialisation import initialise_glorot

WIDTHS = (128, 64, 32)  # of the MLP


@dataclass(frozen=True)
class Shape:
    """What a reverse pass and a probe need to know of a network.

    Attributes:
        depth: layers that can be compared.
        start: where the reverse pass begins, see :class:`racecar.Racecar`: before the last pooling.
        pooled: where it begins behind the last pooling; None: there is none.
        before: the last module before the last pooling, whose output is probed too; None: there is none.
    """

    depth: int
    start: str
    pooled: str | None
    before: str | None


SHAPES: dict[Network, Shape] = {
    "mlp": Shape(3, "body.relu3", None, None),
    "conv": Shape(7, "body.act7", "body.pool", "act7"),
}


class Classifier(nn.Module):
    """``head(projector(body(x)))``.

    Args:
        kind: which network.
        classes: outputs.
        channels, size: of the images.
        width: of the conv net, channels of its first layer.
        seed: of all weights; the body's do not depend on the rest.
        projector: hidden units of a projector of two layers; 0: none.
    """

    def __init__(
        self, kind: Network, classes: int, *, channels: int, size: int, width: int, seed: int, projector: int = 0
    ) -> None:
        super().__init__()
        if kind == "mlp":
            self.body, self.features = _mlp(channels * size * size), WIDTHS[-1]
            initialise_glorot(self.body, seed)
        else:
            whole = strong(classes, width, channels)
            initialise_strong(whole, seed)
            del whole.head
            self.body, self.features = whole, 4 * width
        middle: list[nn.Module] = []
        if projector:
            middle = [nn.Linear(self.features, projector), nn.ReLU(), nn.Linear(projector, self.features), nn.ReLU()]
        self.projector = nn.Sequential(*middle)
        self.head = nn.Linear(self.features, classes)
        initialise_glorot(self.projector, 20_000 + seed)
        initialise_glorot(self.head, 30_000 + seed)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] → logits [N, classes]."""
        logits: Tensor = self.head(self.projector(self.body(x)))
        return logits


def _mlp(inputs: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, width in enumerate(WIDTHS, start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, width)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = width
    return nn.Sequential(layers)


@torch.no_grad()
def features(model: Classifier, images: Tensor, before: str | None) -> tuple[Tensor, Tensor | None]:
    """Features of images in evaluation mode: the body's output [N, D], and the map before pooling as 2 × 2 cells.

    Args:
        model: is left in evaluation mode.
        images: [N, C, H, W].
        before: see :class:`Shape`.
    """
    model.eval()
    if before is None:
        return model.body(images), None
    x: Tensor = images
    cells: Tensor | None = None
    for name, module in model.body.named_children():
        x = module(x)
        if name == before:
            cells = nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)
    return x.float(), cells
