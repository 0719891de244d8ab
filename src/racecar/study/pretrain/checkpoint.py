"""A trained classifier on disk: ``model.safetensors``, the plain model's ``state_dict``, and ``model.json``.

    model, options     for ``make_model``: with timm and torchvision, name and arguments of the constructor
    outputs            classes of the constructor's model; a new last layer was put on if it differs from classes
    classes            names, by output
    input              channels, height and width of the images; mean and std of pixels between 0 and 1

What else is in the JSON tells how it was trained. Both files are of use without racecar.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_json, read_tensors, write_json, write_tensors
from racecar.study.core.models import make_model
from racecar.study.pretrain import trust
from racecar.study.pretrain.heads import replace_head

LIBRARIES = ("timm", "torchvision")
Metadata = dict[str, Any]


def library(name: str) -> str | None:
    """``"timm"`` or ``"torchvision"`` if the model is one of theirs."""
    source = name.partition(":")[0]
    return source if source in LIBRARIES else None


def build(name: str, options: dict[str, Any], classes: int, channels: int, seed: int) -> tuple[nn.Module, Metadata]:
    """A model for so many classes with weights drawn by a seed, and the options that made it.

    Classes and channels become ``num_classes`` and timm's ``in_chans``; a class of the user's that takes no
    ``num_classes`` is called without.

    Raises:
        ValueError: no such model, or it does not take the options.
    """
    wanted = {"num_classes": classes, **options}
    if library(name) == "timm" and channels != 3:
        wanted = {"in_chans": channels, **wanted}
    torch.manual_seed(seed)
    try:
        # Whose weights it began with does not matter to those who load it, and from scratch means without them.
        return make_model(name, **wanted), {k: v for k, v in wanted.items() if k != "pretrained"}
    except ValueError as error:
        if library(name) or not isinstance(error.__cause__, TypeError):
            raise
    torch.manual_seed(seed)
    return make_model(name, **options), options


def outputs_of(model: nn.Module, name: str, batch: Tensor) -> int:
    """How many outputs a model gives for an image, see :func:`check`."""
    output = _tried(model, name, batch)
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise StudyError(f"{name} does not return one row of outputs for an image: switch extra outputs off")
    return output.shape[1]


def check(model: nn.Module, name: str, batch: Tensor, classes: int) -> None:
    """Try a model on a batch, in training mode; it stays as it is.

    Args:
        model: on the batch's device.
        name: for messages.
        batch: [N, C, H, W], N ≥ 2.
        classes: how many it must tell apart.

    Raises:
        StudyError: it does not take the images, or does not return [N, classes].
    """
    output = _tried(model, name, batch)
    if not isinstance(output, Tensor) or output.shape != (len(batch), classes):
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(
            f"{name} returns {what} for {len(batch)} images of {classes} classes, not {(len(batch), classes)}: set "
            "its number of classes, or switch extra outputs off, with --model-options"
        )


def _tried(model: nn.Module, name: str, batch: Tensor) -> Any:
    """What a copy returns in training mode."""
    shape = " × ".join(map(str, batch.shape[1:]))
    try:
        with torch.no_grad():
            return copy.deepcopy(model).train()(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # anything can go wrong in a user's forward
        raise StudyError(
            f"{name} does not take images of {shape} (channels × height × width): {_line(error)}. Choose another "
            "--size or --channels"
        ) from error


def write(folder: Path, model: nn.Module, metadata: Metadata) -> None:
    """Keep a trained model; the JSON comes last and says that it is complete.

    Raises:
        StudyError: the disk refuses.
    """
    write_tensors(folder / "model.safetensors", model.state_dict(), {"model": metadata["model"]})
    write_json(folder / "model.json", metadata)


def read_metadata(folder: Path) -> Metadata:
    """What ``model.json`` says.

    Raises:
        StudyError: no checkpoint there, or the file is of something else.
    """
    path = folder / "model.json"
    if not path.exists():
        several = sorted(p.parent.as_posix() for p in folder.glob("*-*/model.json"))
        if (folder / "transfer.json").exists() and several:
            raise StudyError(f"{folder} holds the trainings of a transfer: give one of them, {', '.join(several[:4])}")
        unfinished = any(folder.glob("progress-*.safetensors"))
        raise StudyError(
            f"{folder} holds a training that is not finished: run its command again"
            if unfinished
            else f"{path} does not exist: give the folder that `racecar train` wrote (its --out)"
        )
    metadata = read_json(path)
    wanted: dict[str, type] = {"model": str, "options": dict, "outputs": int, "classes": list, "input": dict}
    parts = ("channels", "height", "width", "mean", "std")
    if (
        not isinstance(metadata, dict)
        or any(not isinstance(metadata.get(k), t) for k, t in wanted.items())
        or any(k not in metadata["input"] for k in parts)
        or not metadata["classes"]
    ):
        raise StudyError(f"{path} does not describe a model: give the folder that `racecar train` wrote (its --out)")
    trust.check_input(folder, metadata)
    return metadata


def open_checkpoint(folder: Path, named: str | None = None) -> tuple[nn.Module, Metadata]:
    """A trained classifier from anywhere, and what its ``model.json`` says; the one way in for all commands.

    Args:
        folder: of the checkpoint.
        named: the ``module:NAME`` that the user has repeated to say that this code may be run.

    Raises:
        StudyError: no checkpoint, damaged, of another architecture, or one that asks for what must not be run.
    """
    metadata = read_metadata(folder)
    trust.check(folder, metadata["model"], metadata["options"], named)
    return load(folder, metadata), metadata


def normalisation(metadata: Metadata) -> Normalisation:
    """Of the images the model was trained on."""
    return Normalisation(tuple(metadata["input"]["mean"]), tuple(metadata["input"]["std"]))


def construct(metadata: Metadata, seed: int) -> nn.Module:
    """The model of a checkpoint with weights drawn by a seed.

    Raises:
        ValueError: no such model here, or it does not take the options.
    """
    torch.manual_seed(seed)
    model = make_model(metadata["model"], **metadata["options"])
    if metadata["outputs"] != len(metadata["classes"]):
        replace_head(model, metadata["outputs"], len(metadata["classes"]))
    return model


def load(folder: Path, metadata: Metadata) -> nn.Module:
    """The model of a checkpoint with its weights.

    Raises:
        StudyError: the weights are missing, damaged, or of another architecture.
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise StudyError(f"{path} does not exist: copy it beside model.json, or train again with another --out")
    try:
        weights = read_tensors(path)
    except StudyError as error:
        raise StudyError(
            f"{path} is truncated or no safetensors file ({_line(error.__cause__ or error)}): copy it again, or train "
            "again with another --out"
        ) from error
    model = construct(metadata, 0)
    own = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    there = {n: tuple(t.shape) for n, t in weights.items()}
    differing = sorted(n for n in own.keys() | there.keys() if own.get(n) != there.get(n))
    if differing:
        first = differing[0]
        raise StudyError(
            f"{path} holds another architecture than {metadata['model']} with {metadata['options']}: "
            f"{len(differing)} of {len(own)} tensors differ, {first} is {there.get(first, 'missing')} in the file and "
            f"{own.get(first, 'missing')} in the model. Use the model.json it was saved with"
        )
    model.load_state_dict(weights)
    return model


def how_to_load(folder: Path, metadata: Metadata) -> str:
    """Lines of Python that load the model without racecar."""
    source, _, what = metadata["model"].partition(":")
    options = ", ".join(f"{k}={v!r}" for k, v in metadata["options"].items())
    if source == "timm":
        make = f'import timm\nmodel = timm.create_model("{what}", {options})'
    elif source == "torchvision":
        make = f'from torchvision.models import get_model\nmodel = get_model("{what}", {options})'
    else:
        make = f"from {source} import {what}\nmodel = {what}({options})"
        if metadata["outputs"] != len(metadata["classes"]):
            make += f"  # then replace its last layer by one with {len(metadata['classes'])} outputs"
    path = (folder / "model.safetensors").as_posix()
    return f'from safetensors.torch import load_file\n{make}\nmodel.load_state_dict(load_file("{path}"))'


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
