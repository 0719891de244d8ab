"""RR^s: racecar training over s layers (Eq. 1), its cheaper ways, and its form with shared batch norm statistics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from racecar.study.core.methods.base import Method, register

_CHEAPER = r"(?:every[1-9]\d*|fraction(?:0?\.\d*[1-9]|1)|layerwise|subset[1-9]\d*)"


@register
@dataclass(frozen=True)
class RR(Method):
    """``RR<s>``; ``RR<s>s``, the reverse pass's batch norm statistics shared; ``RR<s>-every<k>`` and the like.

    Attributes:
        shared: whether the reverse pass's batch norm shares the forward pass's running statistics.
        ways: what makes it cheaper, as written after a hyphen each: ``("every4", "layerwise")``, sorted.

    Raises:
        ValueError: more layers are to be drawn than are compared.
    """

    family, color, shade, place = "RR", "#3a9a4a", "rr", 5  # the paper's green
    layered, has_weight = True, True
    usage: ClassVar[str] = "may be followed by -every<k>, -fraction<f>, -layerwise and -subset<k>, e.g. RR6-every4"

    shared: bool = False
    ways: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (drawn := self.savings.get("subset", 0)) > self.depth:
            raise ValueError(f"{self.name}: of {self.depth} compared layers no {drawn} can be drawn")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read ``"rr6"``, ``"rr6s"`` or ``"rr6-every4-layerwise"``, each way once."""
        match = re.fullmatch(rf"rr([1-9]\d*)(s?)((?:-{_CHEAPER})*)", text)
        if match is None:
            return None
        ways = tuple(sorted(match[3].split("-")[1:]))
        once = len({re.sub(r"[\d.]+", "", w) for w in ways}) == len(ways)
        return cls(int(match[1]), bool(match[2]), ways) if once else None

    @property
    def suffix(self) -> str:
        """``"s"`` for shared statistics, then the cheaper ways."""
        return "-".join(["s" * self.shared, *self.ways])

    @property
    def savings(self) -> dict[str, Any]:
        """What makes it cheaper, as arguments of :class:`racecar.Racecar`: empty for the exact method."""
        arguments: dict[str, Any] = {}
        for way in self.ways:
            name = way.rstrip("0123456789.")
            amount = way.removeprefix(name)
            arguments[name] = True if not amount else float(amount) if name == "fraction" else int(amount)
        return arguments

    @property
    def arguments(self) -> dict[str, Any]:
        """The number of layers, where shared the statistics, and what makes it cheaper."""
        return {"layers": self.depth, **({"norm_statistics": "shared"} if self.shared else {}), **self.savings}

    @property
    def cost(self) -> float:
        """By a step's FLOPs on digits and CIFAR."""
        return 1 + 1.2 * self.savings.get("fraction", 1) / self.savings.get("every", 1)

    def note(self, compute_match: float) -> str:
        """On shared statistics."""
        words = (
            "RR^…s: the reverse pass's batch norm statistics shared with the forward pass's. All accuracies are of "
            "inference mode; the authors' public code evaluates with batch statistics, where sharing changes nothing."
        )
        return words if self.shared else ""
