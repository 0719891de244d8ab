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
from racecar.study.core.restart import FRESH, WAYS, restart
from racecar.study.core.variants import EARLY, Run, Variant
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.network import LAYER_NAMES, initialised
from racecar.study.mutual_information.training import Group, order_runs, train_group

NAME = "mutual-information"


def parts(config: MutualInformationConfig, workers: int) -> list[list[str]]:
    """Divide the variants among processes: neighbours in one program, the costliest part as cheap as possible."""
    cost: dict[Variant, float] = {}
    for run in config.runs():
        step = run.variant.method.cost if run.path == "A" else 1.0
        cost[run.variant] = cost.get(run.variant, 0.0) + step * config.epochs(run)
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
    length = {r: config.epochs(r) for r in runs}
    done = {r: length[r] for r in runs if study.finished(r)}
    for progress in study.load_progress():
        group = Group.restore(progress)
        done = {r: group.epoch for r in group.runs if r in length} | done
    return sum(length.values()), sum(done.values())


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
    # Phase I, B from scratch and phase II; what takes the same number of epochs is one ensemble.
    for wanted in ("A",), (EARLY,), ("B",), [r.phase for r in runs if r.source is not None]:
        pending = [r for r in runs if r.phase in wanted and not study.finished(r)]
        for group in _groups(study, config, pending):
            final = train_group(group, config, replace(callbacks, save=partial(study.save_progress, slot)))
            if final.epoch < final.epochs:
                return False
            _keep(study, final)
            study.drop_progress(slot)
    return True


def _groups(study: Study, config: MutualInformationConfig, pending: Sequence[Run]) -> list[Group]:
    """Groups to train: what was interrupted goes on where it was; the rest starts as one group."""
    groups = []
    rest = list(pending)
    for progress in study.load_progress():
        known = Group.restore(progress)
        keep = [i for i, r in enumerate(known.runs) if r in rest]
        if keep:
            epochs = config.epochs(known.runs[keep[0]])
            with progress.restored():
                if known.epochs != epochs:
                    raise ValueError(f"it is of {known.epochs} epochs, not of {epochs}")
            groups.append(known.select(keep))
            rest = [r for r in rest if r not in groups[-1].runs]
    if rest:
        groups.append(_new_group(study, config, order_runs(rest)))
    return groups


def _new_group(study: Study, config: MutualInformationConfig, runs: list[Run]) -> Group:
    states: list[dict[str, torch.Tensor]] = []
    moments: list[dict[str, torch.Tensor]] = []
    steps = 0
    for run in runs:
        if run.source is None:
            states.append(_drawn(config, run.seed))
        else:
            how = run.way if run.way in WAYS else "keep"
            states.append(restart(study.weights(run.source), _drawn(config, run.seed + FRESH), how, LAYER_NAMES))
            if config.training.optimiser == "carried":
                saved = read_tensors(study.path(run.source) / "optimiser.safetensors")
                steps = int(saved.pop("steps"))
                moments.append(saved)

    def stack(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {k: torch.stack([p[k] for p in parts]) for k in parts[0]} if parts else {}

    return Group(runs, config.epochs(runs[0]), stack(states), stack(moments), steps)


def _drawn(config: MutualInformationConfig, seed: int) -> dict[str, torch.Tensor]:
    return dict(initialised(config.training.initialisation, seed).state_dict())


def _keep(study: Study, group: Group) -> None:
    """Write one folder per finished run."""
    for i, run in enumerate(group.runs):
        if run.path == "A":
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
        # A state saved by an earlier version has no such numbers.
        **{k: round(float(point[k][run]), 6) for k in ("saturated", "slope") if k in point},
    }
