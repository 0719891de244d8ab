"""The runs of the study: phase I on coarse labels, then everything that the features are worth on fine ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

import racecar
from racecar.study.classification.balancing import balance
from racecar.study.classification.batches import InMemory, Normalisation
from racecar.study.classification.keeping import kept
from racecar.study.classification.objective import Objective
from racecar.study.classification.training import Trainer
from racecar.study.classification.whitening import whitening
from racecar.study.classification.work import step_flops
from racecar.study.coarse_to_fine import outcomes, remedies
from racecar.study.coarse_to_fine.config import TransferConfig, strength_of
from racecar.study.coarse_to_fine.networks import Classifier
from racecar.study.coarse_to_fine.pretraining import pretrain
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.core.files import read_tensors
from racecar.study.core.folder import Study
from racecar.study.core.methods import Strength
from racecar.study.core.resume import saved_state, slot, train_run
from racecar.study.core.schedule import Units
from racecar.study.core.variants import Run
from racecar.study.images.decoded import Images

NAME = "transfer"
ANSWERS = "answers"


# --- data -------------------------------------------------------------------------------------------------------------


def load(source: str, config: TransferConfig) -> tuple[Images, Images]:
    """Training and test images of task B as the network sees them, and as many as the configuration asks for.

    Raises:
        StudyError: see :meth:`racecar.study.coarse_to_fine.pairs.Source.load`.
    """

    def part(images: Images, count: int | None) -> Images:
        return images if count is None or count >= len(images) else images.stratified(count, 0)[0]

    train, test = config.tasks.source.load(source)
    if not config.tasks.is_reported:
        train, test = _apart(train, config, len(test))
    return config.tasks.prepared(part(train, config.train_images)), config.tasks.prepared(
        part(test, config.test_images)
    )


def _apart(train: Images, config: TransferConfig, tests: int) -> tuple[Images, Images]:
    """Training and test images that no reported pair sees: both from the training images that it leaves over.

    Raises:
        StudyError: it leaves none, or too few.
    """
    count, tests = config.train_images, config.test_images or tests
    if count is None or 2 * count + tests > len(train):
        raise StudyError(
            f"{config.pair} is for tuning, on images that no reported pair sees: of {len(train)} it needs "
            f"{tests} for testing and twice --train_images, at most {max(0, (len(train) - tests) // 2)}"
        )
    left = train.stratified(count, 0)[1]
    test, left = left.stratified(tests, 1)
    return left.stratified(count, 0)[0], test


def tasks(study: Study, config: TransferConfig, device: torch.device) -> dict[str, InMemory]:
    """Tasks A and B, on a device."""
    train, test = (images.to(device) for images in kept(study))
    normalisation = Normalisation.of(train) if config.tasks.network == "conv" else Normalisation.unit(train.shape[0])
    last = config.tasks.network == "conv"
    labelled = {"A": config.tasks.task_a, "B": config.tasks.task_b}
    return {task: InMemory(of(train), of(test), normalisation, channels_last=last) for task, of in labelled.items()}


# --- training ---------------------------------------------------------------------------------------------------------


MEASURING = 10  # expected work of the probes


class Cost(NamedTuple):
    """Expected work of a run's parts, in tenths of a plain epoch."""

    pretraining: int
    training: int
    measuring: int
    fine_tuning: int

    @property
    def after(self) -> int:
        """Of what follows phase I."""
        return self.measuring + self.fine_tuning


def costs(config: TransferConfig, run: Run) -> Cost:
    """Of a run."""
    recipe = config.recipe(run)
    if run.phase == "B":
        return Cost(0, 10 * recipe.epochs, 0, 0)
    method, strength = run.variant.method, strength_of(run)
    epochs = max(1, round(recipe.epochs * method.stop(strength))) * method.cost
    layers = method.pretraining(strength) * config.shape.depth
    return Cost(10 * layers, round(10 * epochs), MEASURING, 10 * config.b.epochs)


def cost(config: TransferConfig, run: Run) -> int:
    """Expected work of a run, in tenths of a plain epoch."""
    return sum(costs(config, run))


def seed_of(config: TransferConfig, run: Run) -> int:
    """The seed of weights, order and draws: pairs for tuning have others than those that are reported."""
    return run.seed if config.tasks.is_reported else 1000 + run.seed


def run_share(study: Study, config: TransferConfig, runs: list[Run], callbacks: Callbacks = QUIET) -> bool:
    """Train the runs that are not finished, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder, with its data kept.
        config: the study's.
        runs: this process's.
        callbacks: ``advance`` is told in the unit of :func:`cost`.

    Returns:
        Whether all are finished.
    """
    pending = [r for r in runs if not study.finished(r)]
    stale = [r for r in runs if r not in pending and r.phase != "B" and _is_stale(study, r)]
    if not pending and not stale:
        return True
    accelerator = make_accelerator()
    data = tasks(study, config, accelerator.device)
    for run in stale:
        if callbacks.stop():
            return False
        _measure_again(study, config, run, data)
        callbacks.alive()
    return all(_train(study, config, r, data, accelerator, callbacks) for r in pending)


def _is_stale(study: Study, run: Run) -> bool:
    metrics = study.metrics(run) or {}
    return "diverged" not in metrics and metrics.get("measured") != outcomes.VERSION


def _measure_again(study: Study, config: TransferConfig, run: Run, data: dict[str, InMemory]) -> None:
    """What an older version has measured of a finished run, from its weights; fine-tuning stays."""
    seed = seed_of(config, run)
    model = network(config, data["A"], seed, run.variant.method.projector(strength_of(run)))
    model.load_state_dict(study.weights(run))
    measured = outcomes.measure(model, data["B"], config.shape.before, seed)
    old = read_tensors(study.path(run) / f"{ANSWERS}.safetensors")
    study.keep(run, ANSWERS, old | _counts({k: measured.answers[k] for k in KEPT if k in measured.answers}))
    study.conclude(run, (study.metrics(run) or {}) | measured.numbers)


def network(config: TransferConfig, data: InMemory, seed: int, projector: int = 0) -> Classifier:
    """A network of the pair with weights of its own."""
    channels, size, _ = data.shape
    model = Classifier(
        config.tasks.network,
        len(data.classes),
        channels=channels,
        size=size,
        width=config.width,
        seed=seed,
        projector=projector,
    ).to(data.train.labels.device)
    return model.to(memory_format=torch.channels_last) if data.channels_last else model  # type: ignore[call-overload]


def _train(
    study: Study,
    config: TransferConfig,
    run: Run,
    data: dict[str, InMemory],
    accelerator: Accelerator,
    callbacks: Callbacks,
) -> bool:
    method, strength, seed = run.variant.method, strength_of(run), seed_of(config, run)
    task = data["B" if run.phase == "B" else "A"]
    model = network(config, task, seed, method.projector(strength))
    recipe, state, parts = config.recipe(run), saved_state(study, run), costs(config, run)
    objective, epochs = Objective(model), None
    if run.phase != "B":
        if (long := method.pretraining(strength)) and state is None:
            batches = task.batches(recipe.batch_size, seed, recipe.augmentation, 0, 1)
            example = task.some_tests(recipe.batch_size)
            steps = len(batches) * long * config.shape.depth
            told = replace(callbacks, advance=Units(parts.pretraining, steps, 0, callbacks.advance))
            if not pretrain(model, batches, long, recipe, config.shape, example, told):
                return False
        objective = objective_of(config, run, model, task)
        epochs = round(recipe.epochs * method.stop(strength))
    trainer = Trainer(
        objective,
        recipe,
        task,
        seed=seed,
        phase="B" if run.phase == "B" else "A",
        accelerator=accelerator,
        evaluations=config.evaluations,
        epochs=epochs,
    )
    if objective.rr is not None:
        try:
            balance(trainer, strength)
        except racecar.NonFiniteError as error:  # before the first step
            study.finish(run, model.state_dict(), {"diverged": str(error), "strength": strength, "history": []})
            callbacks.advance(parts.training + parts.after)
            return True
    if method.until() < 1 and run.phase != "B":
        objective.last = round(method.until() * trainer.total)
    if state is not None:
        trainer.restore(state)
    failure = train_run(study, run, trainer, parts.training, callbacks, before=parts.pretraining, after=parts.after)
    if failure is None:
        return False
    accelerator.free_memory()
    remedies.remove(model)
    accuracy = trainer.accuracy(callbacks.alive)[0]
    metrics: dict[str, Any] = {
        "accuracy": accuracy,
        "epochs": len(trainer.history),
        "seconds": round(sum(p.seconds for p in trainer.history), 3),
        "strength": strength,
        "history": [_rounded(asdict(p)) for p in trainer.history],
    }
    if objective.rr is not None:
        metrics["lambdas"] = objective.rr.lambdas.tolist()
    if failure:
        metrics["diverged"] = failure
    answers: dict[str, Tensor] = {}
    if failure:
        callbacks.advance(parts.after)
    elif run.phase != "B":
        measured = outcomes.measure(model, data["B"], config.shape.before, seed)
        metrics |= measured.numbers
        answers = {k: measured.answers[k] for k in KEPT if k in measured.answers}
        callbacks.advance(parts.measuring)
        tuned = _fine_tuned(config, run, model, data["B"], accelerator, callbacks)
        if tuned is None:
            return False
        if isinstance(tuned, str):
            metrics["finetuning_diverged"] = tuned
        else:
            metrics["finetuned"], answers["finetuned"] = tuned
    else:
        answers["scratch"] = _answers(model, data["B"])
    if answers:
        study.keep(run, ANSWERS, _counts(answers))
    study.finish(run, trainer.weights(), metrics)
    study.drop_progress(slot(run))
    return True


KEPT = ("probe", "probe10", "cells", "cells10")  # the probes whose answers are kept, for inference over test images


def _counts(answers: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.double() * outcomes.DRAWS).round().to(torch.uint8) for k, v in answers.items()}


def objective_of(config: TransferConfig, run: Run, model: Classifier, task: InMemory) -> Objective:
    """What phase I minimises, the racecar penalty not balanced against the task's loss yet."""
    method = run.variant.method
    if not method.arguments:
        return Objective(model, regulariser=method.regulariser(model, Strength(strength_of(run))))
    decoder = network(config, task, 10_000 + seed_of(config, run)) if method.untied else None
    shape = config.shape
    start = shape.pooled if method.after_pooling and shape.pooled else shape.start
    if method.gained:
        remedies.add_gains(model.body)
    if method.noise:
        remedies.add_noise(model.get_submodule(start), method.noise)
    rr = racecar.Racecar(
        model,
        task.some_tests(config.recipe(run).batch_size),
        start=start,
        weight=list(method.fading(method.depth)),
        decoder=decoder,
        **method.arguments,
    )
    metric = whitening(task.normalisation(task.train.pixels)) if method.whitened else None
    return Objective(model, rr, metric=metric)


def work(study: Study, config: TransferConfig, runs: Sequence[Run]) -> dict[Run, float]:
    """Floating-point operations of a step of phase I, by run.

    Raises:
        StudyError: the study's images are gone; RacecarError: a variant has no palindrome.
    """
    task = tasks(study, config, torch.device("cpu"))["A"]
    found = {}
    for run in runs:
        model = network(config, task, seed_of(config, run), run.variant.method.projector(strength_of(run)))
        objective = objective_of(config, run, model, task)
        found[run] = step_flops(objective, task.shape, config.recipe(run).batch_size)
    return found


def _fine_tuned(
    config: TransferConfig, run: Run, source: Classifier, data: InMemory, accelerator: Accelerator, callbacks: Callbacks
) -> tuple[float, Tensor] | str | None:
    """Accuracy and answers on B, the body from phase I with a new head; or why it diverged; None if it was stopped."""
    seed = seed_of(config, run)
    model = network(config, data, seed)
    model.body.load_state_dict(source.body.state_dict())
    trainer = Trainer(Objective(model), config.b, data, seed=seed, phase="AB", accelerator=accelerator, evaluations=1)
    # Short, so that no state of its own is saved: stopped here, the run begins again where phase I was saved last.
    units = Units(costs(config, run).fine_tuning, trainer.total, 0, callbacks.advance)
    quiet = Callbacks(stop=callbacks.stop, alive=callbacks.alive, advance=units)
    try:
        if not trainer.run(quiet):
            return None
    except DivergedError as error:
        units.finish()
        return str(error)
    accelerator.free_memory()
    right = _answers(model, data)
    return float(right.double().mean()), right


@torch.no_grad()
def _answers(model: Classifier, data: InMemory) -> Tensor:
    model.eval()
    return torch.cat([model(images).argmax(1) == labels for images, labels in data.tests(1000, 0, 1)]).cpu()


def _rounded(point: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in point.items()}
