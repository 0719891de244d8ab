"""What can be chosen in the 12-bit study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from racecar.study.core.counts import at_least_one
from racecar.study.core.methods import Need, forms
from racecar.study.core.methods.srip import Ort
from racecar.study.core.variants import EARLY, Run, Variant, plan
from racecar.study.mutual_information.data import Protocol

OFFERS = frozenset({Need.REVERSE})  # what the ensemble can do for a method; and Ort's penalty, for many runs at once
DEPTH = 6  # layers of Table 7
RESTARTS = ("AB-head", "AB-two", "AB-shrink")
PHASES = ("A", "B", "AA", "AB", *RESTARTS, EARLY, "AB-early")
EARLY_SHARE = 0.1  # of phase I's epochs, after which A-early ends


@dataclass(frozen=True)
class Training:
    """Hyper-parameters of Table 8, and what the paper leaves open (see the ablation in results/).

    Attributes:
        epochs: of phase I and of phase II.
        epochs_b: of ``Std_B`` from scratch.
        batch_size: 512 (Table 8).
        remainder: the 205 patterns left over in an epoch make a last, smaller batch (``"kept"``) or are ``"dropped"``.
        learning_rate: of Adam.
        weight: λ_1 to λ_6, with the loss summed over batch and units.
        ort_weight: β of Eq. 2 (not given in the paper).
        ort_squared: σ² as the authors' code has it, instead of the σ of Eq. 2.
        initialisation: ``"glorot"`` uniform with zero biases (the authors' code), ``"truncated"`` normal with
            deviation 1/√fan-in and zero biases (Shwartz-Ziv & Tishby's code) or ``"torch"``.
        softmax: applied ``"once"``, inside the cross entropy, or ``"twice"`` as in the authors' code.
        coding: of the input bits, ``"01"`` or ``"pm1"``.
        order: of the training patterns, ``"fixed"`` (as IDNNs) or ``"shuffled"`` in every epoch.
        optimiser: in phase II ``"fresh"`` or ``"carried"`` over from phase I with the weights.
        epsilon: of Adam.
    """

    epochs: int = 2000
    epochs_b: int = 4000
    batch_size: int = 512
    remainder: Literal["kept", "dropped"] = "kept"
    learning_rate: float = 4e-4
    weight: float = 1e-2
    ort_weight: float = 1e-2
    ort_squared: bool = False
    initialisation: Literal["glorot", "truncated", "torch"] = "truncated"
    softmax: Literal["once", "twice"] = "twice"
    coding: Literal["01", "pm1"] = "01"
    order: Literal["fixed", "shuffled"] = "shuffled"
    optimiser: Literal["fresh", "carried"] = "fresh"
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        at_least_one(self, "epochs", "epochs_b", "batch_size")
        for name in ("learning_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight", "ort_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True)
class MutualInformationConfig:
    """The whole study.

    Attributes:
        protocol: split and metric: ``"paper"`` or ``"sound"``, see :mod:`.data`.
        variants: of phase I.
        phases: ``A``, ``B``, ``AA`` and ``AB``, the paper's; in ``AB-head`` and ``AB-two`` phase II begins with the
            last layer or the last two drawn anew, in ``AB-shrink`` with all weights shrunk and perturbed, see
            :mod:`racecar.study.core.restart`; ``A-early`` is a phase I of a tenth of the epochs, ``AB-early`` goes on
            from it.
        seeds: how many, counted from 0.
        snapshots: points per information-plane line, from the first to the last epoch.
        training: hyper-parameters.
    """

    protocol: Protocol = "paper"
    variants: list[str] = field(default_factory=lambda: ["Std", "Ort", "RR1", "RR6"])
    phases: list[str] = field(default_factory=lambda: ["A", "B", "AA", "AB"])
    seeds: int = 5
    snapshots: int = 40
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, not {self.seeds}")
        if self.snapshots < 2:
            raise ValueError(f"snapshots must be at least 2, not {self.snapshots}")
        if not self.variants:
            raise ValueError("variants is empty: name at least one, e.g. Std")
        for name in self.variants:
            variant = Variant.parse(name)
            if not (variant.method.needs <= OFFERS or isinstance(variant.method, Ort)):
                raise ValueError(f"{name} is no variant of this study: use {forms(OFFERS, DEPTH, (Ort,))}")
            if variant.depth > DEPTH:
                raise ValueError(f"{variant.name}: the network of Table 7 has {DEPTH} layers")
        if others := [p for p in self.phases if p not in PHASES]:
            raise ValueError(f"no phase {others[0]!r} in this study: use {', '.join(PHASES)}")
        new = [p for p in self.phases if "-" in p]
        if new and self.training.optimiser == "carried":
            raise ValueError(
                f"training.optimiser: carried is for phases whose weights are phase I's last ones, not for {new[0]}: "
                "leave it out or use fresh"
            )
        self.runs()

    def runs(self) -> list[Run]:
        """All runs."""
        return plan([Variant.parse(v) for v in self.variants], range(self.seeds), self.phases)

    def epochs(self, run: Run) -> int:
        """How long a run is trained."""
        if run.phase == EARLY:
            return max(1, round(EARLY_SHARE * self.training.epochs))
        return self.training.epochs_b if run.phase == "B" else self.training.epochs
