"""VGG19 (Table 16) at any width and image size, its parameters named as torchvision's; timm's weights by renaming."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

BLOCKS = ((1, 1), (2, 2), (4, 4, 4, 4), (8, 8, 8, 8), (8, 8, 8, 8))  # channels over width, of every convolution
DEPTH = 16  # convolutions
HEAD = "classifier.6"  # new for a task with other classes

_TIMM = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}


class VGG19(nn.Module):
    """16 convolutions in five blocks, each block ending in max pooling, then three fully connected layers.

    Args:
        classes: outputs.
        width: channels of the first convolution, 64 in VGG19; all layers but the last scale with it.
        pool: side of the maps that the fully connected layers see, 7 in VGG19.
        dropout: after both hidden layers.
    """

    def __init__(self, classes: int = 1000, width: int = 64, pool: int = 7, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for block in BLOCKS:
            for factor in block:
                layers += [nn.Conv2d(before, factor * width, 3, padding=1), nn.ReLU()]
                before = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        hidden = 64 * width
        self.classifier = nn.Sequential(
            nn.Linear(before * pool * pool, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], H and W at least 32 → [N, classes]."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> VGG19:
        """The network that such weights belong to, with them in it.

        Args:
            weights: names and shapes of this class or torchvision's VGG19, or timm's.

        Raises:
            ValueError: they are of another network.
        """
        weights = from_timm(weights)
        try:
            width = len(weights["features.0.weight"])
            inputs = weights["classifier.0.weight"].shape[1]
            model = cls(len(weights[f"{HEAD}.weight"]), width, round((inputs / (8 * width)) ** 0.5))
            model.load_state_dict(dict(weights))
        except (KeyError, IndexError, RuntimeError) as error:
            raise ValueError(f"these are not the weights of a VGG19: {str(error).splitlines()[0]}") from error
        return model


def initialise(model: VGG19, seed: int) -> None:
    """He's normal weights, which train 16 convolutions without batch norm; a small last layer, zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if name == HEAD:
                nn.init.normal_(module.weight, 0, 0.01, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names and shapes as torchvision's; others stay as they are."""
    back = {theirs: ours for ours, theirs in _TIMM.items()}
    return {
        _renamed(n, back): w.flatten(1) if w.ndim == 4 and n.startswith("pre_logits") else w for n, w in weights.items()
    }


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: timm's first two fully connected layers are convolutions."""
    found = {}
    for name, weight in weights.items():
        if name == "classifier.0.weight":
            channels = len(weights["features.34.weight"])
            side = round((weight.shape[1] / channels) ** 0.5)
            weight = weight.view(len(weight), channels, side, side)
        elif name == "classifier.3.weight":
            weight = weight[:, :, None, None]
        found[_renamed(name, _TIMM)] = weight
    return found


def _renamed(name: str, names: Mapping[str, str]) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{names.get(layer, layer)}.{kind}"
