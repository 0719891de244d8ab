"""What can be chosen in the smoke study."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from torch import nn

from racecar.study.core.counts import at_least_one
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.core.methods import Need, forms
from racecar.study.core.variants import Run, Variant, plan

Network = TypeVar("Network", bound=nn.Module)
EARLY = "early"  # way of a phase II that continues from an early state of phase I
LEAKY = "leaky"  # way of an auto-encoder whose last activation has a gradient everywhere
TASKS = ("A", "B1", "B2")
DEPTH = 6  # convolutions of the generator
OFFERS = frozenset({Need.LONGER, Need.REVERSE, Need.DECODER})  # what phase I can do for a method


@dataclass(frozen=True)
class SmokeConfig:
    """The settings of Table 14, and what the paper leaves open.

    Attributes:
        variants: of phase I, see :class:`racecar.study.core.variants.Variant`.
        seeds: how many, counted from 0.
        phases: A, then B1 (simulated smoke) and B2 (real smoke), transferred (``AB1``) or from scratch (``B1``);
            ``AB1-early`` continues from phase I after ``early`` of its steps; ``AB1-leaky`` and ``B1-leaky`` have a
            leaky last ReLU.
        width: channels of the generator's first layer, 64 in the paper.
        discriminator_width: of the discriminator's, 32 in the paper.
        weight: λ_1 to λ_6, summed over batch and units.
        adversarial_weight: of the adversarial loss beside the content loss (not given in the paper).
        compute_match: steps of StdC in phase I as a multiple of Std's: the FLOPs of a step of RR over one of Std.
        steps_a: training steps of phase I; the paper's 40 000 epochs are four steps each with its batches.
        steps_b: training steps of the auto-encoders: 1000 epochs of 240 frames in the paper.
        early: see ``phases``.
        batch_size: pictures per step.
        learning_rate: of Adam, in both phases.
        train_share: of each data set, 0.1 in the paper: whole simulations, frames of one camera.
        test_frames: of each task, evenly spaced; None: all.
        capture_factor: real frames are averaged over squares of this many pixels.
        evaluations: how often a run is measured.
        precision: ``"bfloat16"`` by autocast, weights stay in float32.
    """

    variants: list[str] = field(default_factory=lambda: ["Std", "RR6"])
    seeds: int = 3
    phases: list[str] = field(default_factory=lambda: ["A", "B1", "B2", "AB1", "AB2"])
    width: int = 64
    discriminator_width: int = 32
    weight: float = 0.1
    adversarial_weight: float = 0.05
    compute_match: float = 1.2
    steps_a: int = 10_000
    steps_b: int = 4_000
    early: float = 0.25
    batch_size: int = 64
    learning_rate: float = 2e-4
    train_share: float = 0.1
    test_frames: int | None = None
    capture_factor: int = 4
    evaluations: int = 20
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        counts = ("seeds", "width", "discriminator_width", "steps_a", "steps_b", "batch_size", "capture_factor")
        at_least_one(self, *counts, "evaluations", "test_frames")
        if self.width % 2:
            raise ValueError(f"width must be even, not {self.width}: layer 5 has half as many channels")
        for name in ("weight", "adversarial_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("train_share", "early"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not self.compute_match >= 1:
            raise ValueError(f"compute_match must be at least 1, not {self.compute_match}")
        if not self.variants:
            raise ValueError("variants is empty: name at least one, e.g. Std")
        for run in self.runs():
            if run.task not in TASKS or run.path == "AA":
                raise ValueError(f"no phase {run.phase!r} in this study: use A, B1, B2, AB1, AB2")
            if run.way not in ("", EARLY, LEAKY) or (run.way == EARLY and run.source is None) or run.phase[:2] == "A-":
                raise ValueError(f"no phase {run.phase!r}: ways are AB1-{EARLY}, AB1-{LEAKY}, B1-{LEAKY}, and of B2")
            if not run.variant.method.needs <= OFFERS or run.variant.depth > DEPTH:
                raise ValueError(f"no variant {run.variant.name} in this study: use {forms(OFFERS, DEPTH)}")

    def runs(self) -> list[Run]:
        """Every run of the study, sources before what continues from them."""
        return plan([Variant.parse(v) for v in self.variants], range(self.seeds), self.phases)

    def steps(self, variant: Variant) -> int:
        """Training steps of a variant in phase I."""
        return round(self.steps_a * variant.method.length(self.compute_match))

    @property
    def early_step(self) -> int:
        """After which the early state of phase I is kept."""
        return max(1, round(self.early * self.steps_a))

    def initialised(self, network: Network, seed: int) -> Network:
        """Glorot-uniform weights from a generator of its own."""
        initialise_glorot(network, seed)
        return network
