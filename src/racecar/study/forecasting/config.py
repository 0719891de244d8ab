"""The experiment's size, chosen before its runs (docs/plan.md, experiment 7)."""

from __future__ import annotations

from dataclasses import dataclass

from racecar.study.core.errors import StudyError
from racecar.study.core.methods import Need, forms
from racecar.study.core.variants import Variant
from racecar.study.forecasting.network import DEPTH

OFFERS = frozenset({Need.LONGER, Need.REVERSE, Need.DECODER, Need.REGULARISER, Need.PRETRAINING})


@dataclass(frozen=True)
class Config:
    """What a folder of results was made with.

    Attributes:
        variants: ways of training on A.
        seeds: of the decisive networks, counted from 0.
        steps_a, steps_b: on A, and on B; of the networks that tuning values are chosen by, half as many.
        lead_a, lead_b: frames ahead.
        simulations_a, simulations_b, simulations_validation: how many train A, train B, choose tuning values; the rest
            is the test.
        width: channels of every hidden layer.
        batch: pairs a step.
        rate: of Adam at its start; it falls to 0 along a cosine.
        values: how many of a method's tuning values are tried, evenly spaced over its range.
        compute_match: steps of StdC as a multiple of Std's.
        margin: δ, differences of error below which methods are equivalent, as a share of persistence's error.

    Raises:
        StudyError: a variant that this study cannot train, or a number that is too small.
    """

    variants: tuple[str, ...] = ("Std", "StdC", "Ort", "Pre", "Dec1", "Dec5", "RR1", "RR5")
    seeds: int = 5
    steps_a: int = 480
    steps_b: int = 160
    lead_a: int = 3
    lead_b: int = 8
    simulations_a: int = 10
    simulations_b: int = 2
    simulations_validation: int = 4
    width: int = 16
    batch: int = 16
    rate: float = 2e-3
    values: int = 3
    compute_match: float = 2.0
    margin: float = 0.01

    def __post_init__(self) -> None:
        small = [n for n, v in vars(self).items() if isinstance(v, int) and v < 1]
        if small:
            raise StudyError(f"{', '.join(small)} must be at least 1")
        for variant in map(Variant.parse, self.variants):
            if not variant.method.needs <= OFFERS or variant.depth > DEPTH:
                raise StudyError(f"no variant {variant.name} in this study: use {forms(OFFERS, DEPTH)}")

    def strengths(self, variant: Variant) -> tuple[float, ...]:
        """The tuning values that are tried, the ends of the range among them where there are two or more; or none."""
        known = variant.method.strengths
        count = min(self.values, len(known))
        last = len(known) - 1
        return tuple(known[round(i * last / (count - 1)) if count > 1 else last // 2] for i in range(count))


QUICK = Config(
    variants=("Std", "Pre", "RR1"),
    seeds=2,
    steps_a=6,
    steps_b=3,
    lead_a=1,
    lead_b=2,
    simulations_a=2,
    simulations_b=1,
    simulations_validation=1,
    width=4,
    batch=4,
    values=2,
)
