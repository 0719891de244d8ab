"""Pre: greedy pretraining of one layer after the other as an auto-encoder (Bengio et al. 2007), then plain training.

The baseline of the authors' later versions (arXiv 2007.00024).
"""

from __future__ import annotations

from racecar.study.core.methods.base import Method, register


@register
class Pre(Method):
    """As Std, from layers that were trained one by one to be undone by their own transpose."""

    family, color, line, place = "Pre", "#53a0a0", "-.", 3
    strengths, unit = (1.0, 2.0, 3.0, 5.0, 8.0), "epochs per layer"

    def pretraining(self, strength: float) -> int:
        """For how many epochs each layer is trained."""
        return int(strength)

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Pre: layers pretrained greedily as auto-encoders, then Std."
