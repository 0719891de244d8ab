"""What can be chosen in the plasticity study."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from racecar.study.core.counts import at_least_one
from racecar.study.core.methods import Method, Need, forms
from racecar.study.core.variants import Run, Variant
from racecar.study.plasticity.network import DEPTH

# What the study can do for a method.
OFFERS = frozenset({Need.LONGER, Need.REVERSE, Need.DECODER, Need.REGULARISER, Need.BETWEEN})
RATIOS = (0.003, 0.01, 0.03, 0.1, 0.3)  # of methods with a reverse pass: over many tasks, small ones are what matters
# The best of five on permuted pixels, 25 tasks of the small preset, 3 seeds: results/plasticity-permuted-pixels.md.
CHOSEN = {"Ort": 0.1, "L2Init": 0.01, "RR1": 0.3, "RR3": 0.1, "Dec1": 0.003, "Dec3": 0.3, "SP": 0.2}
LONGER = 2.0  # epochs of StdC over those of the others
FIRST = "first"  # way in which the penalty acts in the first tenth of the tasks alone
_PHASE = re.compile(rf"A(?:-([1-5])?({FIRST})?)?")

SequenceName = Literal["random-labels", "permuted-pixels", "class-sequence"]


def strengths(method: Method) -> tuple[float, ...]:
    """The five values that this study tries of a method; none where there is nothing to tune."""
    return RATIOS if method.arguments else method.strengths


@dataclass(frozen=True)
class PlasticityConfig:
    """The settings of the study. One optimiser serves all methods; its state is carried from task to task.

    Learning rate, images and epochs were fixed by looking at Std alone, one seed, before any other method was trained:
    with 200 images, 25 epochs of batches of 40 and Adam at 2e-3 it learns random labels at first (0.94), half of them
    after 20 tasks, and none from the 25th on.

    Attributes:
        sequence: ``"random-labels"``: MNIST, the same images with new random labels for every task, accuracy on these
            over a task's last epoch; ``"permuted-pixels"``: MNIST, a new permutation of the pixels for every task,
            accuracy on test images; ``"class-sequence"``: CIFAR, other classes and a new head for every task, accuracy
            on test images.
        variants: see :class:`racecar.study.core.variants.Variant`.
        seeds: how many, counted from 0.
        phases: ``A``: each method at its value in ``chosen``; ``A-1`` to ``A-5``: at its first to fifth value;
            ``A-first`` and ``A-1first``: the penalty of RR^s and Dec^s in the first tenth of the tasks alone.
        chosen: a method's value by its name, one of its five: a ratio of :func:`racecar.balance` for RR^s and Dec^s.
            Empty where no phase asks for it.
        frontier: at most so many seeds of what ``A-1`` to ``A-5`` name.
        dataset: of the class sequence.
        classes: of a task of the class sequence.
        tasks: how many follow one another.
        train_images: of a task; the same for all seeds.
        test_images: of a task, at most.
        batch_size: images per step; a last, smaller batch is left out.
        epochs: passes over a task's images; twice as many for StdC.
        learning_rate: of Adam.
    """

    sequence: SequenceName = "random-labels"
    variants: list[str] = field(
        default_factory=lambda: ["Std", "Ort", "L2Init", "RR1", "RR3", "Dec1", "Dec3", "SP", "Reset"]
    )
    seeds: int = 10
    phases: list[str] = field(default_factory=lambda: ["A"])
    chosen: dict[str, float] = field(default_factory=lambda: dict(CHOSEN))
    frontier: int = 3
    dataset: Literal["cifar10", "cifar100"] = "cifar100"
    classes: int = 2
    tasks: int = 50
    train_images: int = 200
    test_images: int = 2000
    batch_size: int = 40
    epochs: int = 25
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "frontier", "tasks", "train_images", "test_images", "batch_size", "epochs")
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}: one class is no task")
        if self.batch_size > self.train_images:
            raise ValueError(f"batches of {self.batch_size} need more than {self.train_images} train_images")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not self.variants or not self.phases:
            raise ValueError("variants and phases must name at least one each, e.g. Std and A")
        for phase in self.phases:
            if not _PHASE.fullmatch(phase) or phase == "A-":
                raise ValueError(f"no phase {phase!r} in this study: use A, A-{FIRST}, A-1 to A-5, A-1{FIRST}")
        for name in self.variants:
            self._check(Variant.parse(name))
        for name, value in self.chosen.items():
            values = strengths(Variant.parse(name).method)
            if value not in values:
                raise ValueError(f"chosen: {name} has no value {value:g}, only {', '.join(f'{v:g}' for v in values)}")
        if not any(phase in ("A", f"A-{FIRST}") for phase in self.phases):
            object.__setattr__(self, "chosen", {})  # a folder of all five values does not depend on it
        self.runs()

    def _check(self, variant: Variant) -> None:
        if not variant.method.needs <= OFFERS or variant.depth > DEPTH:
            raise ValueError(f"no variant {variant.name} in this study: use {forms(OFFERS, DEPTH)}")
        if variant.family == "Reset" and self.sequence == "class-sequence":
            raise ValueError("Reset is Std in the class sequence, where every task has a new head: leave it out")

    def number(self, variant: Variant) -> int:
        """Which of the variant's values was chosen, from 1.

        Raises:
            ValueError: none was.
        """
        values = strengths(variant.method)
        chosen = {Variant.parse(name): value for name, value in self.chosen.items()}
        if variant not in chosen:
            words = ", ".join(f"{v:g}" for v in values)
            raise ValueError(f"{variant.name} has no value in chosen: give one of {words}, or phases A-1 to A-5")
        return values.index(chosen[variant]) + 1

    def epochs_of(self, variant: Variant) -> int:
        """Passes over a task's images."""
        return round(self.epochs * variant.method.length(LONGER))

    def value(self, run: Run) -> float | None:
        """The tuning value of a run; None where the method has none."""
        return strengths(run.variant.method)[int(run.way[0]) - 1] if run.way else None

    def runs(self) -> list[Run]:
        """Every run, each once: ``A`` where a method has nothing to tune, else ``A-2`` at its second value."""
        found: dict[Run, None] = {}
        for phase in self.phases:
            match = _PHASE.fullmatch(phase)
            assert match is not None
            seeds = min(self.seeds, self.frontier) if match[1] else self.seeds
            for variant in map(Variant.parse, self.variants):
                if match[2] and not variant.method.arguments:
                    continue
                tuned = bool(strengths(variant.method))
                way = f"-{match[1] or self.number(variant)}{match[2] or ''}" if tuned else ""
                found |= {Run(variant, f"A{way}", seed): None for seed in range(seeds)}
        return list(found)
