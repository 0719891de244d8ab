"""Reset: the head is drawn anew between tasks, a control for lost plasticity that lies in the last layer alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from racecar.study.core.methods.base import Method, register


@register
class Reset(Method):
    """As Std; between tasks the last layer's weights are drawn anew."""

    family, color, line, place = "Reset", "#6f6f6f", "--", 2

    def between(
        self, weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor], head: str, strength: float
    ) -> Mapping[str, Tensor]:
        """The head's from those drawn anew, all others as they are."""
        return {name: fresh[name] if name.startswith(head) else weight for name, weight in weights.items()}

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Reset: the last layer drawn anew between tasks."
