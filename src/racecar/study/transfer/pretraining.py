"""Greedy pretraining of a network's layers as auto-encoders (Bengio et al. 2007): what the method Pre begins with."""

from __future__ import annotations

import torch

import racecar
from racecar.study.classification.batches import Epochs
from racecar.study.classification.recipe import Recipe
from racecar.study.core.callbacks import Callbacks
from racecar.study.transfer.networks import Classifier, Shape


def pretrain(
    model: Classifier,
    batches: Epochs,
    epochs: int,
    recipe: Recipe,
    shape: Shape,
    example: torch.Tensor,
    callbacks: Callbacks,
) -> bool:
    """Train one layer after the other to be undone by its own transpose, the layers before it held.

    Args:
        model: its weights change.
        batches: images; labels are not looked at.
        epochs: for every layer.
        recipe: its precision; Adam takes steps of 1e-3.
        shape: of the network.
        example: a batch.
        callbacks: ``alive`` is called after every step, ``stop`` is asked.

    Returns:
        Whether it came to its end.
    """
    kept = racecar.Racecar(model, example, layers=shape.depth, start=shape.start).layers
    half = torch.bfloat16 if recipe.precision == "bfloat16" else None
    model.train()
    for number in range(shape.depth):
        weight = [float(m == number) for m in range(shape.depth)]
        rr = racecar.Racecar(model, example, layers=shape.depth, start=shape.start, layerwise=True, weight=weight)
        optimiser = torch.optim.Adam(model.get_submodule(kept[number]).parameters(), 1e-3)
        for epoch in range(epochs):
            for images, _, _ in batches.epoch(epoch):
                with torch.autocast(images.device.type, half, enabled=half is not None):
                    _, penalty = rr(images)
                optimiser.zero_grad()
                penalty.backward()
                optimiser.step()
                callbacks.alive()
                if callbacks.stop():
                    return False
    for parameter in model.parameters():
        parameter.grad = None
    return True
