"""Plain training: Std, and its control StdC that takes as much computation as racecar training does."""

from __future__ import annotations

from racecar.study.core.methods.base import Method, register


@register
class Std(Method):
    """The cross entropy alone."""

    family, color, place = "Std", "#d29306", 1  # the paper's yellow, dark enough for white paper


@register
class StdC(Method):
    """As Std, but as long as RR takes in phase I (compute-matched)."""

    family, color, line, place = "StdC", "#ed8761", "--", 2

    def length(self, compute_match: float) -> float:
        """As many steps more as a racecar step costs more."""
        return compute_match

    def note(self, compute_match: float) -> str:
        """How much longer."""
        return f"StdC: Std with {compute_match:g} times the epochs."
