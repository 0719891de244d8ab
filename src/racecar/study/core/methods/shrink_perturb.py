"""SP: shrink and perturb between tasks (Ash & Adams 2020), a control for lost plasticity."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from racecar.study.core.methods.base import Method, register


@register
class SP(Method):
    """As Std; between tasks θ ← (1 − a) · θ + a · θ_fresh for all weights."""

    family, color, line, place = "SP", "#d14f25", ":", 3
    strengths, unit = (0.05, 0.1, 0.2, 0.4, 0.8), "a"

    def between(
        self, weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor], head: str, strength: float
    ) -> Mapping[str, Tensor]:
        """Each weight a share a nearer to one drawn anew."""
        return {name: (1 - strength) * weight + strength * fresh[name] for name, weight in weights.items()}

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "SP: shrink and perturb between tasks."
