"""Dec^s: a control, the reverse pass of RR^s with weights of its own, so that sharing weights can be judged."""

from __future__ import annotations

from racecar.study.core.methods.base import Method, register


@register
class Dec(Method):
    """As RR^s but with an untied decoder, whose weights are drawn anew."""

    family, color, line, place = "Dec", "#8f83ab", "-.", 4  # violet: the paper does not have it
    layered, untied, has_weight = True, True, True
    strengths, unit = (0.1, 0.3, 1.0, 3.0, 10.0), "ratio"

    @property
    def cost(self) -> float:
        """As the exact RR^s."""
        return 2.2

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Dec: a reverse pass with weights of its own."
