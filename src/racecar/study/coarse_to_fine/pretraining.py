"""Greedy pretraining (:mod:`racecar.study.core.greedy`) on the images of task A."""

from __future__ import annotations

import torch

from racecar.study.classification.batches import Epochs
from racecar.study.classification.recipe import Recipe
from racecar.study.coarse_to_fine.networks import Classifier, Shape
from racecar.study.core import greedy
from racecar.study.core.callbacks import Callbacks


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
        callbacks: ``advance`` is told of every step, ``stop`` is asked.

    Returns:
        Whether it came to its end.
    """
    return greedy.pretrain(
        model,
        example,
        lambda: (images for epoch in range(epochs) for images, _, _ in batches.epoch(epoch)),
        depth=shape.depth,
        start=shape.start,
        rate=1e-3,
        precision=recipe.half,
        callbacks=callbacks,
    )
