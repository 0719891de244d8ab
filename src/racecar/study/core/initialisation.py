"""The initialisation of the paper's networks."""

from __future__ import annotations

import torch
from torch import nn


def initialise_glorot(model: nn.Module, seed: int) -> None:
    """Glorot-uniform weights and zero biases, as the authors' code has it."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
