"""One classifier's training in a folder of its own: opened, resumed, logged, written by the main process alone.

OUT/study.json                       configuration, environment
OUT/progress-run.safetensors         what the training has reached, until it is finished
OUT/tensorboard/, OUT/log.csv        see :mod:`.tracking`
OUT/end.safetensors                  see :mod:`.longer`
OUT/model.safetensors, model.json    see :mod:`.checkpoint`
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from racecar.study.classification.balancing import balance, penalty_trains
from racecar.study.classification.evaluation import Point
from racecar.study.classification.extras import PLAIN, Extras
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.environment import environment
from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_empty
from racecar.study.core.folder import Study, read_description
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import log_line, progress_bar
from racecar.study.pretrain import checkpoint
from racecar.study.pretrain.data import Data, check_images
from racecar.study.pretrain.longer import keep_end, read_end
from racecar.study.pretrain.mirror import Mirror
from racecar.study.pretrain.tracking import tracked

SLOT = "run"


# --- the folder -------------------------------------------------------------------------------------------------------


def same_as_known(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration with what the folder's own says in other words: paths by where they lead, a checkpoint by its
    weights, whose checksum is compared.
    """
    if not (folder / "study.json").exists():
        return config
    known = read_description(folder / "study.json")["config"]
    same = {"from"} if "weights" in config else set()
    for name in ("data", "labels_file"):
        given, there = config.get(name), known.get(name)
        if isinstance(given, str) and isinstance(there, str) and os.path.realpath(given) == os.path.realpath(there):
            same.add(name)
    return {**config, **{name: known[name] for name in same if name in known}}


def look(accelerator: Accelerator, folder: Path, name: str, config: Mapping[str, Any]) -> bool:
    """Say, before anything costly, whether the folder is free for this training, or its own; True if it is finished.

    Raises:
        StudyError: it belongs to something else, or to another configuration, or another process trains in it.
    """
    if accelerator.is_main_process and folder.exists() and not is_empty(folder):
        study = Study(folder, name, same_as_known(folder, config))
        with sole_use(folder):
            study.remove_leftovers()
            if finished(folder):
                study.drop_progress(SLOT)
    accelerator.wait_for_everyone()
    return finished(folder)


def open_folder(accelerator: Accelerator, folder: Path, name: str, config: Mapping[str, Any], data: Data) -> Study:
    """The training's folder, created if needed.

    Raises:
        StudyError: it cannot be written, or the images are not those it began with.
    """
    study = None
    if accelerator.is_main_process:
        study = Study(folder, name, same_as_known(folder, config))
        check_images(folder, study.metadata(), data.fingerprints())
        study.note(**data.fingerprints())
    accelerator.wait_for_everyone()
    return study or Study(folder, name, same_as_known(folder, config))


def finished(folder: Path) -> bool:
    """Whether a trained model is there, weights and JSON; the JSON is written last."""
    return all((folder / name).exists() for name in ("model.json", "model.safetensors"))


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    study: Study,
    model: nn.Module,
    metadata: checkpoint.Metadata,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    accelerator: Accelerator,
    phase: str = "",
    mirror: Mirror | None = None,
    frozen: tuple[nn.Module, ...] = (),
    extras: Extras = PLAIN,
    trackers: Sequence[str] = ("tensorboard",),
    may_go_on: bool = False,
    labelled: bool = True,
    callbacks: Callbacks = QUIET,
    label: str = "training",
) -> bool:
    """Train to the end, from where an earlier call has got, and write the checkpoint: the weights that ``extras`` keep.

    Args:
        study: the folder.
        model: on the accelerator's device, with the weights it begins with.
        metadata: for model.json: model, options, outputs.
        data: images.
        recipe: hyper-parameters.
        seed: of order, augmentation and dropout.
        phase: see :class:`racecar.study.classification.training.Trainer`.
        accelerator: device, processes, precision.
        mirror: racecar's settings.
        frozen: modules that stay in evaluation mode.
        extras: what the user adds to the recipe.
        trackers: what is told of every epoch, see :mod:`.tracking`.
        may_go_on: keep what more epochs need, see :mod:`.longer`.
        labelled: whether labels are asked for; if not, the penalty is all that is minimised.
        callbacks: ``stop`` and ``save_every`` count; the others are the progress bar, the folder and the log.
        label: beside the progress bar.

    Returns:
        Whether it is finished; if not, it was stopped at a saved state.

    Raises:
        StudyError: out of memory, a full disk, a loss that is not finite; what was saved before is still there.
    """
    mirror = mirror or Mirror()
    weights = extras.weights(data.train.classes, data.train.labels)
    last = accelerator.device.type == "cuda"  # channels
    model.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]
    example = data.normalisation(data.train.first(min(8, recipe.batch_size)), channels_last=last)
    main = accelerator.is_main_process
    with sole_use(study.folder) if main else nullcontext(), no_memory(accelerator, recipe.batch_size):
        trainer = Trainer(
            mirror.objective(model, example),
            recipe,
            replace(data, channels_last=last),
            seed=seed,
            phase=phase,
            accelerator=accelerator,
            evaluations=recipe.epochs,
            eval_modules=frozen,
            extras=extras,
            class_weights=weights,
            labelled=labelled,
        )
        if (progress := study.read_progress(SLOT) or read_end(study)) is not None:
            trainer.restore(progress)
        elif mirror.weight and frozen and not penalty_trains(trainer):
            raise StudyError("all that the penalty would train is frozen: train without --racecar, or freeze less")
        elif mirror.balanced:
            found = balance(trainer, mirror.safe_ratio)
            say(accelerator, f"racecar: λ = {found:.3g} (gradient ratio {mirror.safe_ratio:g})")
        accelerator.wait_for_everyone()

        def save(state: Progress) -> None:
            if main:
                study.save_progress(SLOT, state)

        shown = progress_bar(label, trainer.total, trainer.step) if main else nullcontext(lambda steps: None)
        with shown as advance, tracked(trackers, study, trainer) as note:

            def tell(point: Point, step: int) -> None:
                note(point, step)
                if main:
                    log_line(f"{label}: {epoch_line(point, trainer.epochs)}")

            if not trainer.run(replace(callbacks, advance=advance, save=save, note=tell)):
                return False
    kept, end = trainer.kept, trainer.state()
    if kept.epoch != len(trainer.history) or extras.ema:
        model.load_state_dict(trainer.weights())
    if main:
        channels, height, width = data.train.shape
        seconds = sorted(p.seconds for p in trainer.history)
        content = metadata | {
            "classes": list(data.train.classes),
            "input": {
                "channels": channels,
                "height": height,
                "width": width,
                "mean": list(data.normalisation.mean),
                "std": list(data.normalisation.std),
            },
            "racecar": mirror.stored(trainer.weight if mirror.balanced else None) if mirror.weight else None,
            "recipe": asdict(recipe),
            "extras": extras.chosen(),
            "seed": seed,
            "accuracy": kept.accuracy,
            "top5": kept.top5,
            "error": kept.error,
            "epoch": kept.epoch,
            "seconds_per_epoch": seconds[len(seconds) // 2],
            "train_images": len(data.train),
            "validation_images": len(data.test),
            "processes": accelerator.num_processes,
            "history": [asdict(p) for p in trainer.history],
            "environment": environment(),
        }
        if may_go_on:
            keep_end(study, recipe, end)
        checkpoint.write(study.folder, model, content)
        study.drop_progress(SLOT)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it keeps what it has prepared
    return True


def epoch_line(point: Point, epochs: int) -> str:
    """An epoch's numbers for a log file."""
    parts = {"loss": point.loss, "penalty": point.penalty, "train": point.train_accuracy, "validation": point.accuracy}
    if point.error is not None:
        parts = {"error": point.penalty, "validation": point.error}
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in parts.items() if value is not None)
    return f"epoch {point.epoch}/{epochs}: {numbers}, {point.seconds:.1f} s"


@contextmanager
def no_memory(accelerator: Accelerator, batch: int) -> Iterator[None]:
    """Running out of the device's memory, anywhere, as an error that says what to try."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StudyError(
            f"out of memory on {accelerator.device} with batches of {batch}: try --batch-size {max(batch // 2, 1)}, "
            "--precision bfloat16, or a smaller --size"
        ) from error


def say(accelerator: Accelerator, text: str, *, error: bool = False) -> None:
    """A line from the main process."""
    if accelerator.is_main_process:
        print(text, file=sys.stderr if error else sys.stdout, flush=True)
