"""The study from start to finish: which runs are missing, train them in groups, keep what is done, resume."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.files import read_tensors
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.network import initialised
from racecar.study.mutual_information.training import Group, order_runs, train_group

NAME = "mutual-information"


def parts(config: MutualInformationConfig, workers: int) -> list[list[str]]:
    """Divide the variants among processes: neighbours in one program, the costliest part as cheap as possible."""
    cost: dict[Variant, float] = {}
    for run in config.runs():
        step = run.variant.method.cost if run.phase == "A" else 1.0
        cost[run.variant] = cost.get(run.variant, 0.0) + step * _epochs(config, run)
    variants = sorted(cost, key=lambda v: (not v.depth, v))
    names = [v.name for v in variants]
    count = max(1, min(workers, len(names)))
    best: tuple[float, list[list[str]]] = (math.inf, [])
    for cuts in itertools.combinations(range(1, len(names)), count - 1):
        edges = [0, *cuts, len(names)]
        pieces = [variants[a:b] for a, b in itertools.pairwise(edges)]
        worst = max(sum(cost[v] for v in piece) for piece in pieces)
        if worst < best[0]:
            best = (worst, [[v.name for v in piece] for piece in pieces])
    return best[1]


def work(study: Study, config: MutualInformationConfig, runs: Sequence[Run]) -> tuple[int, int]:
    """(all, already done) of some runs, in epochs × networks."""
    length = {r: _epochs(config, r) for r in runs}
    done = {r: length[r] for r in runs if study.finished(r)}
    for progress in study.load_progress():
        group = Group.restore(progress)
        done = {r: group.epoch for r in group.runs if r in length} | done
    return sum(length.values()), sum(done.values())


def _epochs(config: MutualInformationConfig, run: Run) -> int:
    return config.training.epochs_b if run.phase == "B" else config.training.epochs


def run_study(study: Study, config: MutualInformationConfig, callbacks: Callbacks = QUIET) -> bool:
    """Train every run that is not finished. Safe to stop or kill at any moment and to call again.

    Args:
        study: its folder.
        config: which runs; several processes may share a study if their variants differ.
        callbacks: ``advance`` is told of epochs × networks; ``stop`` is asked before every epoch.

    Returns:
        Whether all runs are finished.
    """
    runs = config.runs()
    slot = "-".join(config.variants)
    stages = [
        ([r for r in runs if r.phase == "A"], config.training.epochs),
        ([r for r in runs if r.phase == "B"], config.training.epochs_b),
        ([r for r in runs if r.source is not None], config.training.epochs),
    ]
    for wanted, epochs in stages:
        for group in _groups(study, config, [r for r in wanted if not study.finished(r)], epochs):
            final = train_group(group, config, replace(callbacks, save=partial(study.save_progress, slot)))
            if final.epoch < epochs:
                return False
            _keep(study, final)
            study.drop_progress(slot)
    return True


def _groups(study: Study, config: MutualInformationConfig, pending: Sequence[Run], epochs: int) -> list[Group]:
    """Groups to train: what was interrupted goes on where it was; the rest starts as one group."""
    groups = []
    rest = list(pending)
    for progress in study.load_progress():
        known = Group.restore(progress)
        keep = [i for i, r in enumerate(known.runs) if r in rest]
        if keep:
            with progress.restored():
                if known.epochs != epochs:
                    raise ValueError(f"it is of {known.epochs} epochs, not of {epochs}")
            groups.append(known.select(keep))
            rest = [r for r in rest if r not in groups[-1].runs]
    if rest:
        groups.append(_new_group(study, config, order_runs(rest), epochs))
    return groups


def _new_group(study: Study, config: MutualInformationConfig, runs: list[Run], epochs: int) -> Group:
    states: list[dict[str, torch.Tensor]] = []
    moments: list[dict[str, torch.Tensor]] = []
    steps = 0
    for run in runs:
        if run.source is None:
            states.append(dict(initialised(config.training.initialisation, run.seed).state_dict()))
        else:
            states.append(study.weights(run.source))
            if config.training.optimiser == "carried":
                saved = read_tensors(study.path(run.source) / "optimiser.safetensors")
                steps = int(saved.pop("steps"))
                moments.append(saved)

    def stack(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {k: torch.stack([p[k] for p in parts]) for k in parts[0]} if parts else {}

    return Group(runs, epochs, stack(states), stack(moments), steps)


def _keep(study: Study, group: Group) -> None:
    """Write one folder per finished run."""
    for i, run in enumerate(group.runs):
        if run.phase == "A":
            content = {k: v[i] for k, v in group.moments.items()}
            study.keep(run, "optimiser", {**content, "steps": torch.tensor(group.steps)})
        history = [_point(point, i) for point in group.history]
        metrics = {"epochs": group.epoch, "accuracy": history[-1]["accuracy"], "history": history}
        study.finish(run, {k: v[i] for k, v in group.weights.items()}, metrics)


def _point(point: dict[str, torch.Tensor], run: int) -> dict[str, Any]:
    loss = float(point["loss"][run])
    return {
        "epoch": int(point["epoch"]),
        "accuracy": float(point["accuracy"][run]),
        "loss": loss if math.isfinite(loss) else None,
        "information": [[round(v, 6) for v in layer] for layer in point["information"][run].tolist()],
    }
