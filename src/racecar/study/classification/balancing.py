"""λ from the first batches of a training, before its first step."""

from __future__ import annotations

import itertools

import racecar
from racecar.study.classification.training import Trainer

BATCHES = 8  # as many as in results/balance.md
SAFE = 3.0  # the highest ratio that was measured and did no harm: results/balance.md, docs/when.md


def balance(trainer: Trainer, ratio: float) -> float:
    """Set λ so that the penalty's gradient is ``ratio`` times as long as the cross entropy's.

    The geometric mean of the λ of the first :data:`BATCHES` batches, in training mode; weights, running statistics and
    the step stay as they are. All processes call, and get the λ of one.

    Args:
        trainer: before its first step, with racecar's penalty.
        ratio: of the norms, see :func:`racecar.balance`.

    Returns:
        λ, the same for all compared layers.

    Raises:
        RacecarError: a gradient is zero, or not finite.
    """
    rr, model = trainer.objective.rr, trainer.objective.model
    assert rr is not None
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer.training_mode()
    for number, (batch, labels, share) in enumerate(itertools.islice(trainer.batches.epoch(0), BATCHES)):
        trainer.seed_step(number)
        _, loss, penalty = trainer.forward(trainer.objective, *trainer.augmented(batch, labels, number))  # uncompiled
        ours, theirs = trainer.shared(loss, penalty, share)
        racecar.balance(rr, ours, theirs, ratio=ratio, smoothing=number / (number + 1))
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    return float(rr.lambdas[0])
