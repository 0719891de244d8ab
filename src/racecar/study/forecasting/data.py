"""Pairs of two past frames and the frame some steps ahead: whole simulations train, others choose values, or test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.forecasting.config import Config
from racecar.study.forecasting.network import PAST


@dataclass(frozen=True)
class Pairs:
    """What is seen and what is asked for.

    Attributes:
        past: [n, 2, size, size], the frame before and that of now.
        change: [n, 1, size, size], density ``lead`` frames ahead less that of now.
    """

    past: Tensor
    change: Tensor

    @property
    def persistence(self) -> float:
        """RMSE of the forecast that nothing moves, in units of density."""
        return float(self.change.double().square().mean().sqrt())

    def standardised(self, mean: float, deviation: float) -> Pairs:
        """What is seen less a mean, over a deviation."""
        return Pairs((self.past - mean) / deviation, self.change)


@dataclass(frozen=True)
class Task:
    """One task: a lead, and which simulations are for what.

    Attributes:
        train, validation, test: pairs of different simulations; what is seen is standardised.
        mean, deviation: of density over A's training simulations, by which it is.
    """

    train: Pairs
    validation: Pairs
    test: Pairs
    mean: float
    deviation: float

    @property
    def unit(self) -> float:
        """Of a network's output, in density: what changes in training."""
        return self.train.persistence


def pairs(density: Tensor, lead: int) -> Pairs:
    """All pairs of some simulations.

    Args:
        density: [simulations, frames, 1, size, size].
        lead: frames from now to the forecast one.

    Raises:
        StudyError: simulations of too few frames.
    """
    frames = density.shape[1]
    each = frames - PAST - lead + 1
    if each < 1:
        raise StudyError(f"{frames} frames a simulation are too few for a forecast of {lead}: make longer simulations")
    now = density[:, PAST - 1 : PAST - 1 + each]
    past = torch.cat([density[:, :each], now], 2)
    change = density[:, PAST - 1 + lead :] - now
    return Pairs(past.flatten(0, 1), change.flatten(0, 1))


def tasks(density: Tensor, config: Config) -> dict[str, Task]:
    """Tasks A and B. The simulations, in their order: A's, B's, those that tuning values are chosen on, the test's.

    Args:
        density: [simulations, frames, 1, size, size].
        config: how many of each, and the leads.

    Raises:
        StudyError: too few simulations or frames.
    """
    edges = (config.simulations_a, config.simulations_b, config.simulations_validation)
    if len(density) <= sum(edges):
        raise StudyError(
            f"{len(density)} simulations: more than {sum(edges)} are needed, so that some are left to test"
        )
    of_a, of_b, validation, test = density.split([*edges, len(density) - sum(edges)])
    mean, deviation = float(of_a.mean()), float(of_a.std())
    found = {}
    for name, train, lead in (("A", of_a, config.lead_a), ("B", of_b, config.lead_b)):
        ours, choosing, testing = (
            pairs(part, lead).standardised(mean, deviation) for part in (train, validation, test)
        )
        found[name] = Task(ours, choosing, testing, mean, deviation)
    return found


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Numbers of the pairs of every batch, without end; an epoch is a new order, its last, smaller batch left out.

    Args:
        count: of all pairs.
        size: of a batch; at most ``count`` is used.
        seed: of the orders.
    """
    size, generator = min(size, count), torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)
