"""The network of Table 7 and its initialisations."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

WIDTHS = (12, 10, 7, 5, 4, 3, 2)
LAYER_NAMES = tuple(f"fc{m}" for m in range(1, len(WIDTHS)))


def network() -> nn.Sequential:
    """I(12) → tanh(FC(10)+b_1) → … → tanh(FC(2)+b_6) → O(2): 294 weights."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for m, (name, inputs, outputs) in enumerate(zip(LAYER_NAMES, WIDTHS, WIDTHS[1:], strict=False), start=1):
        layers[name] = nn.Linear(inputs, outputs)
        layers[f"tanh{m}"] = nn.Tanh()
    return nn.Sequential(layers)


def initialised(scheme: str, seed: int) -> nn.Sequential:
    """A network with weights drawn from its own generator: the same for every variant of a seed."""
    generator = torch.Generator().manual_seed(seed)
    net = network()
    for module in net.modules():
        if not isinstance(module, nn.Linear):
            continue
        fan_in = module.in_features
        if scheme == "glorot":
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif scheme == "truncated":
            deviation = 1 / math.sqrt(fan_in)
            nn.init.trunc_normal_(module.weight, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
            nn.init.zeros_(module.bias)
        elif scheme == "torch":
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        else:
            raise ValueError(f"no initialisation {scheme!r}")
    return net
