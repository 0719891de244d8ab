"""Ort: the orthogonality regulariser SRIP (Eq. 2; Bansal et al. 2018), the paper's baseline."""

from __future__ import annotations

from torch import Tensor, nn

import racecar
from racecar.study.core.methods.base import Method, Regulariser, Settings, register


@register
class Ort(Method):
    """The cross entropy and β times SRIP."""

    family, color, place = "Ort", "#2b62d9", 0  # the paper's blue
    strengths, unit = (0.001, 0.01, 0.1, 1.0, 10.0), "β"

    def regulariser(self, model: nn.Module, settings: Settings) -> Regulariser:
        """Eq. 2."""
        strength = float(settings.ort_weight)

        def penalty(model: nn.Module) -> Tensor:
            return strength * racecar.srip(model)

        return penalty

    @property
    def cost(self) -> float:
        """A power iteration for every weight matrix."""
        return 1.1

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Ort: SRIP, Eq. 2."
