"""RR^s: racecar training over s layers (Eq. 1), its cheaper ways, and its form with shared batch norm statistics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from racecar.study.core.methods.base import Method, register

_REMEDIES = ("denoise", "end", "fade", "gain", "pooled", "white")
_CHEAPER = rf"(?:every[1-9]\d*|fraction(?:0?\.\d*[1-9]|1)|layerwise|subset[1-9]\d*|{'|'.join(_REMEDIES)})"


@register
@dataclass(frozen=True)
class RR(Method):
    """``RR<s>``; ``RR<s>s``, the reverse pass's batch norm statistics shared; ``RR<s>-every<k>`` and the like.

    Six ways are no cheaper: they are tried as remedies where RR^s does not help. ``-end``: the penalty acts in the
    first two thirds of phase I; ``-fade``: λ_m halves from layer to layer; ``-pooled``: the reverse pass begins behind
    the last pooling; ``-gain``: weights are tied up to a factor per unit; ``-denoise``: the reverse pass begins at I_r
    with noise added; ``-white``, of RR^1 alone: I and I' are compared in directions of equal variance.

    Attributes:
        shared: whether the reverse pass's batch norm shares the forward pass's running statistics.
        ways: what is changed, as written after a hyphen each: ``("every4", "layerwise")``, sorted.

    Raises:
        ValueError: more layers are to be drawn than are compared, or another than the first is to be whitened.
    """

    family, color, place = "RR", "#1f7f2a", 5  # the paper's green
    layered, has_weight = True, True
    usage: ClassVar[str] = (
        "may be followed by -every<k>, -fraction<f>, -layerwise, -subset<k>, -denoise, -end, -fade, -gain, -pooled and "
        "-white, e.g. RR6-every4"
    )
    strengths: ClassVar[tuple[float, ...]] = (0.1, 0.3, 1.0, 3.0, 10.0)
    unit: ClassVar[str] = "ratio"

    shared: bool = False
    ways: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (drawn := self.savings.get("subset", 0)) > self.depth:
            raise ValueError(f"{self.name}: of {self.depth} compared layers no {drawn} can be drawn")
        if self.whitened and (self.depth != 1 or self.savings):
            raise ValueError(f"{self.name}: the input alone is whitened, in the exact method: use {self.family}1-white")

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
            if way in _REMEDIES:
                continue
            name = way.rstrip("0123456789.")
            amount = way.removeprefix(name)
            arguments[name] = True if not amount else float(amount) if name == "fraction" else int(amount)
        return arguments

    @property
    def arguments(self) -> dict[str, Any]:
        """The number of layers, where shared the statistics, and what makes it cheaper."""
        return {"layers": self.depth, **({"norm_statistics": "shared"} if self.shared else {}), **self.savings}

    def until(self) -> float:
        """Two thirds with ``-end``."""
        return 2 / 3 if "end" in self.ways else 1.0

    def fading(self, layers: int) -> tuple[float, ...]:
        """1, ½, ¼ … with ``-fade``."""
        return tuple(0.5**m if "fade" in self.ways else 1.0 for m in range(layers))

    @property
    def after_pooling(self) -> bool:
        """With ``-pooled``."""
        return "pooled" in self.ways

    @property
    def gained(self) -> bool:
        """With ``-gain``."""
        return "gain" in self.ways

    @property
    def noise(self) -> float:
        """½ with ``-denoise``."""
        return 0.5 if "denoise" in self.ways else 0.0

    @property
    def whitened(self) -> bool:
        """With ``-white``."""
        return "white" in self.ways

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
