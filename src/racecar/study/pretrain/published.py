"""Weights that somebody else has trained, to begin with: a library's own, or a ``state_dict`` in a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors
from racecar.study.pretrain.checkpoint import library

LIBRARY = "library"  # the word that stands for the weights that timm or torchvision give with a model


def check(weights: str, name: str) -> None:
    """Before anything costly, whether there can be such weights.

    Raises:
        StudyError: there cannot.
    """
    if weights == LIBRARY and library(name) is None:
        raise StudyError(f"--pretrained: {name} has no library's weights: give a safetensors file, --pretrained FILE")
    if weights != LIBRARY and not Path(weights).exists():
        raise StudyError(
            f"--pretrained {weights}: no such file; without a file it means timm's or torchvision's weights"
        )


def begin_with(model: nn.Module, weights: str, name: str, options: Mapping[str, Any]) -> list[str]:
    """Put published weights into a model, wherever name and shape fit; the last layer is mostly another one.

    Args:
        model: changed in place.
        weights: :data:`LIBRARY`, or the path of a safetensors file with a ``state_dict``.
        name: of the model, ``timm:NAME`` and the like.
        options: of its constructor.

    Returns:
        Names of the model's tensors that are not from there.

    Raises:
        StudyError: no such weights, they cannot be fetched or read, or they are of another architecture.
    """
    found = _of_library(name, options) if weights == LIBRARY else read_tensors(Path(weights))
    own = model.state_dict()
    fitting = {n: t for n, t in found.items() if n in own and own[n].shape == t.shape}
    if len(fitting) < len(own) / 2:
        raise StudyError(
            f"--pretrained: of the {len(own)} tensors of {name} {len(fitting)} are there in that shape: the weights "
            "are another architecture's"
        )
    model.load_state_dict(fitting, strict=False)
    return [n for n in own if n not in fitting]


def normalisation_of(name: str, weights: str | None, channels: int) -> Normalisation | None:
    """Of the images that a library's weights were trained on; None where it does not say, or for other channels."""
    source, _, what = name.partition(":")
    if weights != LIBRARY:
        return None
    if source == "timm":
        config = importlib.import_module("timm").models.get_pretrained_cfg(what)
        mean, std = tuple(config.mean), tuple(config.std)
    else:
        weight = importlib.import_module("torchvision.models").get_model_weights(what).DEFAULT
        transforms = weight.transforms()
        mean, std = (tuple(getattr(transforms, n, ())) for n in ("mean", "std"))
    return Normalisation(mean, std) if len(mean) == len(std) == channels else None


def _of_library(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state of the library's trained model, its input channels adapted by timm, its last layer its own."""
    source, _, what = name.partition(":")
    others = {k: v for k, v in options.items() if k != "num_classes"}
    try:
        if source == "timm":
            model = importlib.import_module("timm").create_model(what, pretrained=True, **others)
        else:
            model = importlib.import_module("torchvision.models").get_model(what, weights="DEFAULT", **others)
    except (OSError, RuntimeError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(f"--pretrained: the weights of {name} cannot be had: {said}") from error
    return model.state_dict()
