"""Early: plain training that stops early, a control for whatever trains task A less."""

from __future__ import annotations

from racecar.study.core.methods.base import Method, register


@register
class Early(Method):
    """As Std, stopped before its schedule ends."""

    family, color, line, place = "Early", "#a58b05", ":", 2
    strengths, unit = (0.1, 0.2, 0.35, 0.5, 0.7), "share of phase I"

    def stop(self, strength: float) -> float:
        """Which share of the steps is taken."""
        return strength

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Early: Std, stopped early."
