"""The runs of the plasticity study: their images kept beside them, trained, kept, resumed."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

import torch

from racecar.study.classification.keeping import kept
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.resume import saved_state, slot, train_run
from racecar.study.core.variants import Run
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.sequences import KINDS, Sequence
from racecar.study.plasticity.training import Training

NAME = "plasticity"


def sequence_of(study: Study, config: PlasticityConfig) -> Sequence:
    """The chain of tasks, of the images that are kept.

    Raises:
        StudyError: they are missing or damaged.
    """
    return KINDS[config.sequence](*kept(study), config)


def cost(config: PlasticityConfig, run: Run) -> int:
    """Expected work of a run, in tenths of a plain task."""
    return round(10 * config.tasks * run.variant.method.cost * config.epochs_of(run.variant) / config.epochs)


def run_share(study: Study, config: PlasticityConfig, runs: Several[Run], callbacks: Callbacks = QUIET) -> bool:
    """Train the runs that are not finished, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder, with its images kept.
        config: hyper-parameters.
        runs: this process's.
        callbacks: ``advance`` is told in the unit of :func:`cost`; states are kept in the study's folder.

    Returns:
        Whether all are finished.
    """
    if all(study.finished(r) for r in runs):
        return True
    device, sequence = make_accelerator().device, sequence_of(study, config)
    return all(_train(study, config, sequence, r, device, callbacks) for r in runs if not study.finished(r))


def _train(
    study: Study, config: PlasticityConfig, sequence: Sequence, run: Run, device: torch.device, callbacks: Callbacks
) -> bool:
    training = Training(run, config, sequence, device)
    if (state := saved_state(study, run)) is not None:
        training.restore(state)
    failure = train_run(study, run, training, cost(config, run), callbacks)
    if failure is None:
        return False
    study.finish(run, training.model.state_dict(), metrics(training, failure))
    study.drop_progress(slot(run))
    return True


def metrics(training: Training, failure: str = "") -> dict[str, Any]:
    """What run.json says of a finished training.

    Args:
        training: at its end.
        failure: why it diverged; the tasks that it did not come to then count as answered by chance.
    """
    config, history = training.config, training.history
    chance = 1 / training.sequence.classes
    accuracies = [point["accuracy"] for point in history] + [chance] * (config.tasks - len(history))
    last = accuracies[-max(1, config.tasks // 5) :]
    found: dict[str, Any] = {
        "steps": training.step,
        "seconds_per_step": round(training.seconds / max(1, training.step), 6),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "value": config.value(training.which),
        "lambdas": training.lambdas,
        "accuracy": sum(accuracies) / len(accuracies),
        "last_fifth": sum(last) / len(last),
        "history": history,
    }
    return found | ({"diverged": failure} if failure else {})
