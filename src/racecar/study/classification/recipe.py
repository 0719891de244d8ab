"""How one network is trained: epochs, optimiser, schedule, augmentation, precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from racecar.sharded import is_sharded
from racecar.study.classification.augmentation import Augmentation
from racecar.study.core.counts import at_least_one


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one phase.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all processes.
        learning_rate: the highest one.
        optimiser: ``"adam"``, ``"adamw"`` or ``"sgd"`` (Nesterov momentum).
        momentum: of sgd.
        weight_decay: of matrices and kernels; biases and norms have none.
        schedule: ``"constant"``; ``"steps"``: a tenth after each of ``milestones`` epochs; ``"cosine"``: linear
            warm-up over the first ``warmup`` of the steps, then a half cosine to zero.
        milestones: epochs, for ``"steps"``.
        warmup: share of all steps, for ``"cosine"``.
        label_smoothing: of the cross entropy.
        augmentation: see :mod:`.augmentation`.
        precision: ``"bfloat16"`` by autocast, weights stay in float32.
        compile: the step's forward part by ``torch.compile``.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "steps", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()
    warmup: float = 0.1
    label_smoothing: float = 0.0
    augmentation: Augmentation = "none"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        at_least_one(self, "epochs", "batch_size")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("momentum", "weight_decay", "label_smoothing", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("momentum", "label_smoothing", "warmup"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, not {getattr(self, name)}")

    @property
    def half(self) -> torch.dtype | None:
        """The lower precision of autocast, or None without autocast."""
        return torch.bfloat16 if self.precision == "bfloat16" else None

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "steps":
            return self.learning_rate * 0.1 ** sum(step >= m * steps_per_epoch for m in self.milestones)
        if self.schedule == "cosine":
            total = self.epochs * steps_per_epoch
            rising = self.warmup * total
            if step < rising:
                return self.learning_rate * (step + 1) / (rising + 1)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))
        return self.learning_rate

    def make_optimiser(self, modules: Sequence[nn.Module], scales: Mapping[Tensor, float] | None = None) -> Optimizer:
        """Over the parameters that want a gradient.

        Args:
            modules: with the parameters.
            scales: of the learning rate, for parameters where it is not 1; kept as a group's ``scale``.
        """
        parameters = [p for p in dict.fromkeys(p for m in modules for p in m.parameters()) if p.requires_grad]
        groups: list[dict[str, Any]] = []
        for decay, of in ((self.weight_decay, [p for p in parameters if p.ndim > 1]),
                          (0.0, [p for p in parameters if p.ndim <= 1])):  # fmt: skip
            each = [(scales or {}).get(p, 1.0) for p in of]
            for scale in dict.fromkeys(each):
                own = [p for p, s in zip(of, each, strict=True) if s == scale]
                groups.append({"params": own, "weight_decay": decay, "scale": scale})
        fused = not any(is_sharded(p) for p in parameters)  # not for all of them, where weights are sharded
        if self.optimiser == "sgd":
            nesterov = self.momentum > 0
            return torch.optim.SGD(groups, self.learning_rate, self.momentum, nesterov=nesterov, fused=fused)
        kind = torch.optim.Adam if self.optimiser == "adam" else torch.optim.AdamW
        return kind(groups, self.learning_rate, fused=fused)
