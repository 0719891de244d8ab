"""The runs of a classification study: trained, kept and resumed.

What they train and on what is the experiment's, see :class:`racecar.study.classification.experiment.Experiment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import racecar
from racecar.study.classification.experiment import SHARES, ClassificationConfig, Experiment, Task
from racecar.study.classification.objective import Objective
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.resume import saved_state, slot, train_run
from racecar.study.core.variants import Run


def cost(config: ClassificationConfig, run: Run) -> int:
    """Expected work of a run, in tenths of a plain epoch over all images."""
    recipe = config.recipe(run)
    step = run.variant.method.cost if run.phase == "A" else 1.0
    per_epoch = 4 if run.way == "probe" else round(10 * step)
    return max(1, round(recipe.epochs * per_epoch * SHARES.get(run.way, 1.0)))


def run_share(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    runs: Sequence[Run],
    callbacks: Callbacks = QUIET,
    *,
    shard: bool = False,
) -> bool:
    """Train the runs that are not finished, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder, with its data kept.
        experiment: network and penalties.
        config: hyper-parameters.
        runs: this process's; sources before what continues from them.
        callbacks: ``advance`` is told in the unit of :func:`cost`; states are kept in the study's folder.
        shard: divide weights and moments among the processes that train a run together.

    Returns:
        Whether all are finished.
    """
    pending = [r for r in runs if not study.finished(r)]
    if not pending:
        return True
    accelerator = make_accelerator()
    tasks = {n: t.to(accelerator.device) for n, t in experiment.kept(study, config).items()}
    return all(_train(study, experiment, config, r, tasks, accelerator, callbacks, shard) for r in pending)


def _train(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    run: Run,
    tasks: dict[str, Task],
    accelerator: Accelerator,
    callbacks: Callbacks,
    shard: bool,
) -> bool:
    task, main = tasks[run.task], accelerator.is_main_process
    model, trainer = make_trainer(study, experiment, config, run, task, accelerator, shard)
    if (state := saved_state(study, run)) is not None:
        trainer.restore(state)
    accelerator.wait_for_everyone()
    failure = train_run(study, run, trainer, cost(config, run), callbacks, writes=main)
    if failure is None:
        return False
    history = [asdict(p) for p in trainer.history]
    for point in history:
        for name in ("loss", "penalty"):
            point[name] = round(point[name], 6)
        point["seconds"] = round(point["seconds"], 4)
    last = (
        (history[-1]["accuracy"], history[-1]["top5"]) if history and not failure else trainer.accuracy(callbacks.alive)
    )
    metrics: dict[str, Any] = {
        "epochs": len(history),
        "accuracy": last[0],
        "top5": last[1],
        "seconds_per_epoch": round(sorted(p["seconds"] for p in history)[len(history) // 2], 4) if history else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_images": trainer.data.train_count,
        "history": history,
    }
    if failure:
        metrics["diverged"] = failure
    if run.phase == "A":
        with trainer.unsharded():
            metrics["regeneration"] = regeneration(experiment, config, model, trainer)
    weights = trainer.weights()
    if main:
        study.finish(run, weights, metrics)
        study.drop_progress(slot(run))
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it keeps what it has prepared
    return True


def make_trainer(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    run: Run,
    task: Task,
    accelerator: Accelerator,
    shard: bool = False,
) -> tuple[nn.Module, Trainer]:
    """The network of a run, where its source has left it, and its training."""
    device, recipe = accelerator.device, config.recipe(run)
    data = experiment.data(config, run, task)
    channels, size, _ = data.shape

    def fresh(seed: int = run.seed) -> nn.Module:
        return experiment.network(config, channels, size, len(data.classes), seed)

    model, source = fresh(), config.source(run)
    if source is not None:
        load_source(model, study.weights(source), experiment.head)
    frozen: tuple[nn.Module, ...] = ()
    if run.way == "probe":
        frozen = freeze(model, experiment.head)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(model)
    if run.phase == "A":
        mirrored = bool(run.variant.method.arguments)
        example = data.some_tests(recipe.batch_size) if mirrored else torch.empty(0, device=device)
        objective = experiment.objective(config, run.variant, model, example, lambda: fresh(10_000 + run.seed))
    trainer = Trainer(
        objective,
        recipe,
        data,
        seed=run.seed,
        phase=run.phase,
        order=experiment.order(run),
        accelerator=accelerator,
        evaluations=config.evaluations,
        eval_modules=frozen,
        shard=shard,
    )
    return model, trainer


def load_source(model: nn.Module, weights: dict[str, Tensor], head: str) -> None:
    """Continue from a source's weights; the last layer starts anew where the task has other classes."""
    own = model.state_dict()
    fits = all(own[n].shape == w.shape for n, w in weights.items())
    kept = weights if fits else {n: w for n, w in weights.items() if not n.startswith(f"{head}.")}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not unexpected
    assert all(n.startswith(f"{head}.") for n in missing)


def freeze(model: nn.Module, head: str) -> tuple[nn.Module, ...]:
    """Train the last layer alone: the rest keeps its weights and its running statistics."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{head}."))
    return tuple(m for n, m in model.named_children() if n != head)


def regeneration(
    experiment: Experiment, config: ClassificationConfig, model: nn.Module, trainer: Trainer
) -> dict[str, float]:
    """How much of the input the reverse pass brings back (Figure 5): on test images, with batch statistics.

    Returns:
        ``error``: mean squared difference of I and I' over the variance of I, so 1 is as good as the mean image
        value. ``correlation``: between I and I' over the pixels of an image, averaged; 0 where I' is constant.
    """
    batch = trainer.data.some_tests(experiment.regenerated)
    layers = racecar.Racecar(model, batch[:2]).layers
    decoder = trainer.objective.rr.decoder if trainer.objective.rr is not None else None
    rr = racecar.Racecar(
        model, batch[:2], layers=len(layers), input_range=experiment.input_range(config), decoder=decoder
    )
    model.train()
    errors, correlations = [], []
    with torch.no_grad():
        for part in batch.split(250):
            original, regenerated = (t.float() for t in rr.reconstruct(part)[layers[0]])
            errors.append((original - regenerated).square().mean())
            left, right = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (original, regenerated))
            correlations.append(torch.nn.functional.cosine_similarity(left, right).mean())
    error = torch.stack(errors).mean() / batch.var()
    measured = {"error": float(error), "correlation": float(torch.stack(correlations).mean())}
    return {k: round(v, 5) if v == v and abs(v) < 1e30 else 1e30 for k, v in measured.items()}
