"""Which tuning value a method gets: the one that did best on another pair, at equal accuracy on A (docs/plan.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from racecar.study.coarse_to_fine.config import TransferConfig, phase_of, strength_of
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.growing import reopen
from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import STD, Run, Variant


def best(accuracy: Mapping[float, Sequence[float]], probe: Mapping[float, Sequence[float]], floor: float) -> float:
    """The value with the best mean probe among those whose mean accuracy on A is at least a floor.

    Args:
        accuracy: on A, by tuning value, over seeds.
        probe: accuracy of the linear probe on B, likewise.
        floor: Std's mean accuracy on A less δ.

    Returns:
        The value; where none reaches the floor, the one with the highest accuracy on A.
    """
    mean = {value: float(np.mean(found)) for value, found in accuracy.items()}
    fit = [value for value in mean if mean[value] >= floor]
    if not fit:
        return max(mean, key=mean.__getitem__)
    return max(fit, key=lambda value: float(np.mean(probe[value])))


def chosen(folder: Path, config: TransferConfig) -> dict[str, float]:
    """The value of every variant of a configuration that has any, from a finished study on another pair.

    Its trainings may have been shorter, which the report says, see :func:`epochs`.

    Raises:
        StudyError: no such study, one on another pair or with other recipes, or one that lacks a variant.
    """
    study, tuning = reopen(folder, "transfer", TransferConfig)
    if tuning.pair == config.pair:
        raise StudyError(
            f"{folder} is a study on {config.pair} itself: values are chosen on a pair that is not reported"
        )
    if tuning.pair != config.tasks.tuning:
        raise StudyError(f"{folder} is a study on {tuning.pair}: {config.pair} takes values from {config.tasks.tuning}")
    asked = [(replace(c.a, epochs=1), replace(c.b, epochs=1), c.width, c.train_images) for c in (tuning, config)]
    if asked[0] != asked[1]:
        raise StudyError(f"{folder} was trained with other recipes, width or images than are asked for now")
    variants = [Variant.parse(v) for v in config.variants]
    return {v.name: _value(study, tuning, v) for v in dict.fromkeys(variants) if v.method.strengths}


def epochs(folder: Path) -> list[int]:
    """Of phase I and of fine-tuning, in a finished study.

    Raises:
        StudyError: no such study.
    """
    _, tuning = reopen(folder, "transfer", TransferConfig)
    return [tuning.a.epochs, tuning.b.epochs]


def candidate(folder: Path, config: TransferConfig) -> str:
    """The racecar variant whose probe did best at its chosen value; the pair's own where the plan names it.

    Raises:
        StudyError: see :func:`chosen`.
    """
    if config.tasks.candidate:
        return config.tasks.candidate
    study, tuning = reopen(folder, "transfer", TransferConfig)
    racecars = [v for v in map(Variant.parse, config.variants) if isinstance(v.method, RR) and not v.method.ways]

    floor = _floor(study, tuning)

    def mean(variant: Variant, name: str) -> float:
        phase = phase_of(variant, config.tuned[variant.name])
        return float(np.mean([_metric(study, Run(variant, phase, s), name) for s in range(tuning.seeds)]))

    def place(variant: Variant) -> tuple[bool, float]:
        return mean(variant, "accuracy") >= floor, mean(variant, "probe")

    return max(racecars, key=place).name if racecars else ""


def _floor(study: Study, tuning: TransferConfig) -> float:
    """Std's mean accuracy on A less δ."""
    plain = [_metric(study, Run(STD, "A", s), "accuracy") for s in range(tuning.seeds)]
    return float(np.mean(plain)) - tuning.tasks.margin


def _value(study: Study, tuning: TransferConfig, variant: Variant) -> float:
    accuracy: dict[float, list[float]] = {}
    probe: dict[float, list[float]] = {}
    for strength in variant.method.strengths:
        for seed in range(tuning.seeds):
            run = Run(variant, phase_of(variant, strength), seed)
            assert strength_of(run) == strength
            accuracy.setdefault(strength, []).append(_metric(study, run, "accuracy"))
            probe.setdefault(strength, []).append(_metric(study, run, "probe"))
    return best(accuracy, probe, _floor(study, tuning))


def _metric(study: Study, run: Run, name: str) -> float:
    metrics = study.metrics(run)
    if metrics is None:
        raise StudyError(f"{study.folder} has not finished {run.key}: run it with all tuning values first")
    # A network that diverged has no features: it is the worst of all.
    return float(metrics.get(name, 0.0)) if metrics.get("diverged") else float(metrics[name])
