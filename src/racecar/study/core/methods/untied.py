"""Dec^s: a control, the reverse pass of RR^s with weights of its own, so that sharing weights can be judged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from racecar.study.core.methods.base import Method, register


@register
@dataclass(frozen=True)
class Dec(Method):
    """As RR^s but with an untied decoder, whose weights are drawn anew; ``Dec1-white`` is whitened as RR^1-white is.

    Attributes:
        white: whether it is.

    Raises:
        ValueError: another layer than the first is to be whitened.
    """

    family, color, line, place = "Dec", "#8f45b0", "-.", 4  # violet: the paper does not have it
    layered, untied, has_weight = True, True, True
    strengths, unit = (0.1, 0.3, 1.0, 3.0, 10.0), "ratio"

    white: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.white and self.depth != 1:
            raise ValueError(f"{self.name}: the input alone is whitened: use Dec1-white")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read ``"dec6"`` or ``"dec1-white"``."""
        match = re.fullmatch(r"dec([1-9]\d*)(-white)?", text)
        return None if match is None else cls(int(match[1]), bool(match[2]))

    @property
    def suffix(self) -> str:
        """``"-white"`` where it is whitened."""
        return "-white" * self.white

    @property
    def whitened(self) -> bool:
        """With ``-white``."""
        return self.white

    @property
    def cost(self) -> float:
        """As the exact RR^s."""
        return 2.2

    def note(self, compute_match: float) -> str:
        """What it is."""
        return "Dec: a reverse pass with weights of its own."
