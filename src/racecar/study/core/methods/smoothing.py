"""LS: label smoothing, a control that changes the loss of task A alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from racecar.study.core.methods.base import Method, register


@register
class LS(Method):
    """The cross entropy with smoothed labels (Szegedy et al. 2016)."""

    family, color, line, place = "LS", "#967d76", ":", 2
    strengths, unit = (0.05, 0.1, 0.2, 0.4, 0.6), "smoothing"

    def recipe(self, strength: float) -> Mapping[str, Any]:
        """The share of a label's weight that all classes divide among them."""
        return {"label_smoothing": strength}

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "LS: label smoothing."
