"""Proj: a projector between the features and the head of task A, which is thrown away afterwards."""

from __future__ import annotations

from racecar.study.core.methods.base import Method, register


@register
class Proj(Method):
    """As Std with two more layers before the head in phase I (Chen et al. 2020; Bordes et al. 2023)."""

    family, color, line, place = "Proj", "#48658d", "--", 2
    strengths, unit = (32.0, 64.0, 128.0, 256.0, 512.0), "hidden units"

    def projector(self, strength: float) -> int:
        """Its hidden units."""
        return int(strength)

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Proj: a projector of two layers before the head in phase I, thrown away afterwards."
