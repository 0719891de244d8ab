"""How racecar is used in a training: λ, given or from gradients, and which layers are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor, nn

from racecar import Racecar
from racecar.options import Layers, Reduction
from racecar.study.classification.balancing import SAFE
from racecar.study.classification.objective import Objective


@dataclass(frozen=True)
class Mirror:
    """How racecar is used.

    Attributes:
        weight: λ; 0 for plain training; ``"auto"``: from the gradients of the first batches.
        layers, start, reduction: as in :class:`racecar.Racecar`.
        ratio: with ``"auto"``: how many times as long the penalty's gradient is as the cross entropy's. More than
            :data:`.balancing.SAFE` counts as that.
    """

    weight: float | Literal["auto"] = 0.0
    layers: Layers = None
    start: str | None = None
    reduction: Reduction = "mean"
    ratio: float = 0.3

    def __post_init__(self) -> None:
        if self.weight != "auto" and not 0 <= self.weight < float("inf"):
            raise ValueError(f"--racecar must not be negative, not {self.weight}")
        if not 0 < self.ratio < float("inf"):
            raise ValueError(f"--ratio must be positive, not {self.ratio}")

    @property
    def balanced(self) -> bool:
        """Whether λ comes from gradients."""
        return self.weight == "auto"

    @property
    def safe_ratio(self) -> float:
        """The ratio that is used."""
        return min(self.ratio, SAFE)

    def stored(self, weight: float | None = None) -> dict[str, Any]:
        """What study.json and model.json say of it.

        Args:
            weight: λ as it was found.
        """
        content = asdict(self) | {"ratio": self.safe_ratio}
        if not self.balanced:
            del content["ratio"]  # nor had folders of before one
        return content if weight is None else content | {"weight": weight}

    def objective(self, model: nn.Module, example: Tensor) -> Objective:
        """The model with its penalty, for batches like ``example`` [N, C, H, W]; λ = 1 until it is found."""
        if not self.weight:
            return Objective(model)
        weight = 1.0 if self.weight == "auto" else self.weight
        return Objective(
            model,
            Racecar(model, example, layers=self.layers, start=self.start, weight=weight, reduction=self.reduction),
        )
