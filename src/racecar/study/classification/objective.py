"""What a variant adds to the cross entropy: nothing (Std), Eq. 1 (RR^s), Eq. 2 (Ort), or an untied decoder (Dec^s)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import racecar
from racecar.options import InputRange, Layers, NormStatistics, Reduction


@dataclass(frozen=True)
class Penalty:
    """An additional loss.

    Attributes:
        kind: ``"none"``; ``"racecar"``; ``"srip"``; ``"decoder"``: as racecar, with weights of its own.
        weight: λ, or β of Eq. 2.
        layers, start, reduction, input_range, norm_statistics: as in :class:`racecar.Racecar`.
        savings: arguments of it that make the reverse pass cheaper: ``every``, ``fraction``, ``layerwise``, ``subset``.
    """

    kind: str = "none"
    weight: float | Sequence[float] = 0.0
    layers: Layers = None
    reduction: Reduction = "sum"
    input_range: InputRange = None
    norm_statistics: NormStatistics = "separate"
    start: str | None = None
    savings: Mapping[str, Any] = field(default_factory=dict)


class Objective(nn.Module):
    """``output, penalty = objective(x)``; the model's parameters, and a decoder's if there is one, are its own.

    Args:
        model: the classifier.
        penalty: what is added.
        example: an input batch.
        decoder: makes the module whose weights an untied decoder starts from.

    Raises:
        RacecarError: the model has no palindrome of that kind.
    """

    def __init__(
        self, model: nn.Module, penalty: Penalty, example: Tensor, decoder: Callable[[], nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.model, self.penalty = model, penalty
        self.rr: racecar.Racecar | None = None
        if penalty.kind in ("racecar", "decoder"):
            own = decoder().to(example.device) if penalty.kind == "decoder" and decoder is not None else None
            if own is not None and example.is_contiguous(memory_format=torch.channels_last):
                own = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.rr = racecar.Racecar(
                model,
                example,
                layers=penalty.layers,
                start=penalty.start,
                weight=penalty.weight,
                reduction=penalty.reduction,
                input_range=penalty.input_range,
                norm_statistics=penalty.norm_statistics,
                decoder=own,
                **penalty.savings,
            )

    def at(self, step: int, number: int) -> None:
        """Turns and draws of a cheaper reverse pass as functions of the step: a stopped training goes on alike.

        Args:
            step: of the optimiser.
            number: of the step, different for every seed.
        """
        if self.rr is not None:
            self.rr.calls, self.rr.draws = step, number

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [N, classes], penalty)."""
        if self.rr is not None:
            return self.rr(x)
        output = self.model(x)
        if self.penalty.kind == "srip":
            return output, float(self.penalty.weight) * racecar.srip(self.model)  # type: ignore[arg-type]
        return output, output.new_zeros(())

    @property
    def summed(self) -> bool:
        """Whether the penalty is a sum over the images of a batch, which several processes divide among them."""
        return self.rr is not None and self.penalty.reduction == "sum"
