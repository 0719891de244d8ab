"""The runs of the smoke study: trained, kept, resumed; and what their kept weights make of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.files import read_tensors, write_tensors
from racecar.study.core.folder import Study
from racecar.study.core.resume import saved_state, slot, train_run
from racecar.study.core.variants import Run
from racecar.study.smoke import adversarial, autoencoding, network
from racecar.study.smoke.config import EARLY, LEAKY, SmokeConfig
from racecar.study.smoke.frames import Frames
from racecar.study.smoke.quality import COLLAPSED, constants
from racecar.study.smoke.training import Training

NAME = "smoke"


# --- pictures beside the runs -----------------------------------------------------------------------------------------


def _data(study: Study, task: str) -> Path:
    return study.folder / f"data-{task}.safetensors"


def keep_data(study: Study, task: str, frames: Frames) -> None:
    """The task's pictures beside the runs: training processes and the report read what was trained on."""
    write_tensors(_data(study, task), {"train": frames.train, "test": frames.test})


def has_data(study: Study, task: str) -> bool:
    """Whether an earlier call has kept a task's pictures."""
    return _data(study, task).exists()


def kept_data(study: Study, task: str) -> Frames:
    """A task's pictures as :func:`keep_data` wrote them, for ``"A"`` (simulated; B1 has the same) or ``"B2"``.

    Raises:
        StudyError: missing or damaged.
    """
    return Frames(**read_tensors(_data(study, "A" if task == "B1" else task)))


# --- training ---------------------------------------------------------------------------------------------------------


def cost(config: SmokeConfig, run: Run) -> int:
    """Expected work of a run, in plain generator steps: Table 13's discriminator costs four of them."""
    if run.phase != "A":
        return 2 * config.steps_b
    return round((4 + run.variant.method.cost) * config.steps(run.variant))


def run_share(study: Study, config: SmokeConfig, runs: Sequence[Run], callbacks: Callbacks = QUIET) -> bool:
    """Train the runs that are not finished, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder, with its data kept.
        config: hyper-parameters.
        runs: this process's; sources before what continues from them.
        callbacks: ``advance`` is told in the unit of :func:`cost`; states are kept in the study's folder.

    Returns:
        Whether all are finished.
    """
    device = make_accelerator().device
    return all(_train(study, config, r, device, callbacks) for r in runs if not study.finished(r))


def _train(study: Study, config: SmokeConfig, run: Run, device: torch.device, callbacks: Callbacks) -> bool:
    training = make_training(study, config, run, kept_data(study, run.task).to(device))
    if (state := saved_state(study, run)) is not None:
        training.restore(state)
    failure = train_run(study, run, training, cost(config, run), callbacks)
    if failure is None:
        return False
    study.finish(run, _kept(training), _metrics(training, run, failure))
    study.drop_progress(slot(run))
    return True


def make_training(study: Study, config: SmokeConfig, run: Run, frames: Frames) -> Training:
    """The networks of a run, where its source has left them, and their training."""
    if run.phase == "A":
        early = partial(study.keep, run, EARLY)
        return adversarial.SuperResolution(run.variant, frames, config, run.seed, early=early)
    source = None
    if run.source is not None:
        file = f"{EARLY}.safetensors" if run.way == EARLY else "model.safetensors"
        source = read_tensors(study.path(run.source) / file)
        source = {n: w for n, w in source.items() if not n.startswith(_DECODER)}
    return autoencoding.AutoEncoding(source, frames, config, run.seed, run.way == LEAKY)


_DECODER = "untied."  # of Dec's reverse pass, kept beside the generator for the report


def _kept(training: Training) -> dict[str, Tensor]:
    if not isinstance(training, adversarial.SuperResolution):
        return training.modules[0].state_dict()
    decoder = training.mirror.decoder if training.mirror is not None else None
    own = {f"{_DECODER}{n}": t for n, t in decoder.state_dict().items()} if decoder is not None else {}
    return training.generator.state_dict() | own


def _metrics(training: Training, run: Run, failure: str) -> dict[str, Any]:
    with torch.no_grad():
        last = training.history[-1] if training.history and not failure else training.measure()
    metrics: dict[str, Any] = {
        "steps": training.step,
        "seconds_per_step": round(training.seconds / max(1, training.step), 5),
        "parameters": sum(p.numel() for p in training.modules[0].parameters()),
        "train_frames": len(training.frames.train),
        "test_frames": len(training.frames.test),
        **{k: last[k] for k in ("l2", "mse", "psnr", "dssim")},
        "constants": constants(training.frames.test),
        "history": training.history,
    }
    metrics["collapsed"] = bool(failure) or metrics["l2"] > COLLAPSED * metrics["constants"]["grey"]
    if run.phase == "A":
        metrics["regeneration"] = {k: last[f"regeneration_{k}"] for k in ("error", "correlation", "psnr")}
    if isinstance(training, autoencoding.AutoEncoding):
        metrics["reused"] = training.reused
    return metrics | ({"diverged": failure} if failure else {})


# --- what kept weights make of pictures -------------------------------------------------------------------------------


def super_resolved(study: Study, config: SmokeConfig, run: Run, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Figure 8 for a run of phase I: (low resolution, high-resolution output, regenerated low resolution).

    Args:
        study, config: of the run.
        run: finished.
        reference: [n, 1, size, size].
    """
    weights = study.weights(run)
    generator, decoder = network.generator(config.width), None
    generator.load_state_dict({n: w for n, w in weights.items() if not n.startswith(_DECODER)})
    if own := {n.removeprefix(_DECODER): w for n, w in weights.items() if n.startswith(_DECODER)}:
        decoder = network.generator(config.width)
        decoder.load_state_dict(own)
    return adversarial.pictures(generator, reference, decoder)


def auto_encoded(study: Study, config: SmokeConfig, run: Run, reference: Tensor) -> Tensor:
    """Figures 19 and 21 for a run of an auto-encoder: the reference pictures [n, C, h, w], encoded and decoded."""
    model = network.AutoEncoder(config.width, reference.shape[1], run.way == LEAKY)
    model.load_state_dict(study.weights(run))
    return autoencoding.decoded(model.eval(), reference)


@torch.no_grad()
def alive_at_start(study: Study, config: SmokeConfig, run: Run, reference: Tensor) -> float:
    """Share of an auto-encoder's output that is above 0 before its first step: the last ReLU has no gradient elsewhere.

    Args:
        study, config: of the run.
        run: of B1 or B2; its source is finished.
        reference: [n, C, h, w].
    """
    training = make_training(study, config, run, Frames(reference, reference))
    return float((autoencoding.decoded(training.modules[0].eval(), reference) > 0).float().mean())


def dead_channels(study: Study, config: SmokeConfig, run: Run, reference: Tensor) -> int:
    """How many channels of a finished auto-encoder's output are 0 on all reference pictures [n, C, h, w]."""
    return int((auto_encoded(study, config, run, reference).amax((0, 2, 3)) <= 0).sum())
