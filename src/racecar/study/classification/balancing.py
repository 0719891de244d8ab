"""λ from the first batches of a training, before its first step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import racecar
from racecar.study.classification.training import Trainer

BATCHES = 8  # as many as in results/balance.md
SAFE = 3.0  # the highest ratio that was measured and did no harm: results/balance.md, docs/when.md


def balance(trainer: Trainer, ratio: float) -> float:
    """Set λ so that the penalty's gradient is ``ratio`` times as long as the cross entropy's.

    The geometric mean of the λ of the first :data:`BATCHES` batches, in training mode; weights, running statistics and
    the step stay as they are. All processes call, and get the λ of one.

    Args:
        trainer: before its first step, with racecar's penalty; its compiled form is not used, as no graph of it can be
            walked twice.
        ratio: of the norms, see :func:`racecar.balance`.

    Returns:
        λ, the same for all compared layers.

    Raises:
        RacecarError: a gradient is zero, or not finite.
    """
    rr = trainer.objective.rr
    assert rr is not None
    with _in_training(trainer):
        for number, (batch, labels, share) in enumerate(itertools.islice(trainer.batches.epoch(0), BATCHES)):
            trainer.seed_step(number)
            _, loss, penalty = trainer.forward(trainer.objective, *trainer.augmented(batch, labels, number))
            ours, theirs = trainer.shared(loss, penalty, share)
            racecar.balance(rr, ours, theirs, ratio=ratio, smoothing=number / (number + 1))
    return float(rr.lambdas[0])


def penalty_trains(trainer: Trainer) -> bool:
    """Whether the penalty has a gradient, as it has not where all that it would train is frozen."""
    with _in_training(trainer):
        batch, labels, _ = next(iter(trainer.batches.epoch(0)))
        return trainer.forward(trainer.objective, batch, labels)[2].requires_grad


@contextmanager
def _in_training(trainer: Trainer) -> Iterator[None]:
    """Training mode, after which running statistics are as before."""
    trainer.training_mode()
    buffers = dict(trainer.objective.model.named_buffers())
    kept = {name: buffer.clone() for name, buffer in buffers.items()}
    yield
    for name, buffer in buffers.items():
        buffer.copy_(kept[name])
