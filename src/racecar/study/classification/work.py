"""The arithmetic of a training step: the bound that its time is compared with."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from racecar.study.classification.objective import Objective


def step_flops(objective: Objective, shape: tuple[int, int, int], batch: int) -> float:
    """Floating-point operations of convolutions and matrix products in a step, forward and backward.

    Args:
        objective: is left in training mode; its buffers see four random images.
        shape: (C, H, W) of an image.
        batch: images.
    """
    objective.train()
    counts = []
    for count in (2, 4):
        with FlopCounterMode(display=False) as counter:
            output, penalty = objective(torch.rand(count, *shape))
            (output.sum() + penalty).backward()
        counts.append(counter.get_total_flops())
    # Linear in the batch: what a penalty on weights costs does not grow with it.
    return float(counts[0] + (counts[1] - counts[0]) * (batch - 2) / 2)
