"""What is minimised beside the cross entropy: nothing (Std), Eq. 1 (RR^s, Dec^s) or a penalty on weights (Ort)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import racecar
from racecar.options import InputRange
from racecar.study.classification.whitening import whitened_distance
from racecar.study.core.methods import Method, Settings
from racecar.study.core.methods.base import Regulariser


class Objective(nn.Module):
    """``output, penalty = objective(x)``; the model's parameters, and a decoder's if there is one, are its own.

    Args:
        model: the classifier.
        rr: racecar's wrapper of it, which gives the penalty; None: no reverse pass.
        regulariser: a penalty on the model's weights.
        metric: [D, D], in which I and I' are compared (see :mod:`.whitening`); None: as in Eq. 1.

    Attributes:
        last: the step from which on there is no penalty any more; None: there always is.

    Raises:
        ValueError: both, of which one is a sum over images and the other is not.
    """

    def __init__(
        self,
        model: nn.Module,
        rr: racecar.Racecar | None = None,
        regulariser: Regulariser | None = None,
        metric: Tensor | None = None,
    ) -> None:
        super().__init__()
        if rr is not None and regulariser is not None:
            raise ValueError("an objective has racecar's penalty or a regulariser, not both")
        self.model, self.rr, self.regulariser, self.metric = model, rr, regulariser, metric
        self.last: int | None = None
        self._ended = False

    @classmethod
    def of(
        cls,
        method: Method,
        settings: Settings,
        model: nn.Module,
        example: Tensor,
        *,
        input_range: InputRange = None,
        decoder: Callable[[], nn.Module] | None = None,
    ) -> Objective:
        """What a method minimises in phase I, Eq. 1 summed over batch and units as the paper's λ need it.

        Args:
            method: see there.
            settings: its strength.
            model: as phase I begins with it.
            example: an input batch, where the method has a reverse pass.
            input_range: how the regenerated input is mapped, see :class:`racecar.Racecar`.
            decoder: makes the module whose weights an untied decoder starts from.

        Raises:
            RacecarError: the model has no palindrome of that kind.
        """
        if not method.arguments:
            return cls(model, regulariser=method.regulariser(model, settings))
        own = decoder().to(example.device) if method.untied and decoder is not None else None
        if own is not None and example.is_contiguous(memory_format=torch.channels_last):
            own = own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rr = racecar.Racecar(
            model,
            example,
            weight=settings.weight,
            reduction="sum",
            input_range=input_range,
            decoder=own,
            **method.arguments,
        )
        return cls(model, rr)

    def at(self, step: int, number: int) -> None:
        """Turns and draws of a cheaper reverse pass as functions of the step: a stopped training goes on alike.

        Args:
            step: of the optimiser.
            number: of the step, different for every seed.
        """
        self._ended = self.last is not None and step >= self.last
        if self.rr is not None:
            self.rr.calls, self.rr.draws = step, number

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [N, classes], penalty)."""
        if self.rr is not None and not self._ended:
            return self.rr(x) if self.metric is None else self._whitened(self.rr, x, self.metric)
        output = self.model(x)
        plain = self.regulariser is None or self._ended
        return output, output.new_zeros(()) if plain else self.regulariser(self.model)  # type: ignore[misc]

    def _whitened(self, rr: racecar.Racecar, x: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
        seen, regenerated = next(iter(rr.reconstruct(x).values()))
        return self.model(x), rr.lambdas[0] * whitened_distance(seen, regenerated, metric)

    @property
    def summed(self) -> bool:
        """Whether the penalty is a sum over the images of a batch, which several processes divide among them."""
        return self.rr is not None and self.rr.options.reduction == "sum"
