"""What can be chosen in the study of coarse and fine labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from racecar.study.classification.recipe import Recipe
from racecar.study.coarse_to_fine.networks import SHAPES, Shape
from racecar.study.coarse_to_fine.pairs import PAIRS, Pair
from racecar.study.core.counts import at_least_one
from racecar.study.core.methods import Need, forms
from racecar.study.core.variants import STD, Run, Variant

OFFERS = frozenset(Need)
PHASES = ("A", "A-tuned", "B")


@dataclass(frozen=True)
class TransferConfig:
    """The whole study.

    Attributes:
        variants: of phase I, see :class:`racecar.study.core.variants.Variant`.
        seeds: how many, counted from 0.
        phases: ``A``: phase I with each of a method's five tuning values; ``A-tuned``: with the chosen one alone;
            ``B``: the target from scratch.
        tuned: the chosen value of every method that has one, by variant.
        pair: source and target, see :data:`racecar.study.coarse_to_fine.pairs.PAIRS`.
        train_images, test_images: a class-balanced subset; None: all.
        width: channels of the conv net's first layer.
        compute_match: epochs of StdC as a multiple of Std's: the FLOPs of a racecar step over a plain one.
        a: recipe of phase I.
        b: recipe of the target: fine-tuning, and from scratch.
        evaluations: how often accuracy on A is measured.
    """

    variants: list[str] = field(default_factory=lambda: ["Std", "RR1"])
    seeds: int = 10
    phases: list[str] = field(default_factory=lambda: ["A", "B"])
    tuned: dict[str, float] = field(default_factory=dict)
    pair: str = "mnist-parity"
    train_images: int | None = None
    test_images: int | None = None
    width: int = 16
    compute_match: float = 2.0
    a: Recipe = field(default_factory=Recipe)
    b: Recipe = field(default_factory=Recipe)
    evaluations: int = 5

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "width", "evaluations", "train_images", "test_images")
        if not self.compute_match >= 1:
            raise ValueError(f"compute_match must be at least 1, not {self.compute_match}")
        if self.pair not in PAIRS:
            raise ValueError(f"no pair {self.pair!r}: use {', '.join(PAIRS)}")
        if not self.variants:
            raise ValueError("variants is empty: name at least one, e.g. Std")
        if wrong := [p for p in self.phases if p not in PHASES]:
            raise ValueError(f"no phase {wrong[0]!r}: use {', '.join(PHASES)}")
        if not {"A", "A-tuned"} & set(self.phases):
            raise ValueError("add A or A-tuned to the phases: without phase I there is nothing to transfer")
        for name in self.variants:
            self._check(Variant.parse(name))

    def _check(self, variant: Variant) -> None:
        if variant.depth > self.shape.depth:
            raise ValueError(
                f"{variant.name}: the network of {self.pair} has {self.shape.depth} layers to compare; use "
                f"{forms(OFFERS, self.shape.depth)}"
            )
        if variant.method.after_pooling and self.shape.pooled is None:
            raise ValueError(f"{variant.name}: the network of {self.pair} has no pooling")
        strengths = variant.method.strengths
        chosen = self.tuned.get(variant.name)
        if chosen is not None and chosen not in strengths:
            raise ValueError(f"{variant.name} has no value {chosen:g}: use {', '.join(f'{s:g}' for s in strengths)}")

    @property
    def tasks(self) -> Pair:
        """The pair by its name."""
        return PAIRS[self.pair]

    @property
    def shape(self) -> Shape:
        """Of the pair's network."""
        return SHAPES[self.tasks.network]

    def runs(self) -> list[Run]:
        """Every run, the target from scratch first; it is trained for Std alone.

        Raises:
            ValueError: the chosen values alone are asked for, and one is not there.
        """
        variants = list(dict.fromkeys(Variant.parse(v) for v in self.variants))
        seeds = range(self.seeds)
        runs = [Run(STD, "B", s) for s in seeds] if "B" in self.phases else []
        for variant in variants:
            runs += [Run(variant, phase, s) for phase in self.phases_of(variant) for s in seeds]
        return runs

    def phases_of(self, variant: Variant) -> list[str]:
        """The phases of a variant: one for every tuning value, ``"A-t1"`` to ``"A-t5"``; ``"A"`` without any.

        Raises:
            ValueError: see :meth:`runs`.
        """
        strengths = variant.method.strengths
        if not strengths:
            return ["A"]
        if "A" in self.phases:
            return [phase_of(variant, s) for s in strengths]
        if variant.name not in self.tuned:
            raise ValueError(f"A-tuned needs the chosen value of {variant.name}: give --tuned-on, a finished study")
        return [phase_of(variant, self.tuned[variant.name])]

    def tuned_phase(self, variant: Variant) -> str | None:
        """The phase with the chosen value; None where none was chosen."""
        if not variant.method.strengths:
            return "A"
        chosen = self.tuned.get(variant.name)
        return None if chosen is None else phase_of(variant, chosen)

    def recipe(self, run: Run) -> Recipe:
        """Of phase I or of B from scratch, the method's changes included."""
        if run.phase == "B":  # as long as phase I and fine-tuning together
            return dataclasses.replace(self.b, epochs=self.a.epochs + self.b.epochs)
        method = run.variant.method
        changes: dict[str, Any] = dict(method.recipe(strength_of(run)))
        changes["epochs"] = max(1, round(self.a.epochs * method.length(self.compute_match)))
        return dataclasses.replace(self.a, **changes)


def phase_of(variant: Variant, strength: float) -> str:
    """The phase of a tuning value: ``"A-t3"`` for the third."""
    return f"A-t{variant.method.strengths.index(strength) + 1}"


def strength_of(run: Run) -> float:
    """The tuning value of a run of phase I; 0 where its method has none."""
    return run.variant.method.strengths[int(run.way[1:]) - 1] if run.way else 0.0
