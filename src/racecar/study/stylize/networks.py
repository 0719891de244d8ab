"""Trained networks to see with: torchvision's and timm's pretrained ones, checkpoints, runs of a study, weights."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import nn

from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors
from racecar.study.core.models import make_model
from racecar.study.pretrain import checkpoint
from racecar.study.vgg.experiment import IMAGENET
from racecar.study.vgg.network import VGG19

KINDS = (
    "torchvision:NAME or timm:NAME with their pretrained weights, a folder that `racecar train` wrote, a run's folder "
    "of `racecar study vgg`, or a .safetensors file with the weights of a VGG19"
)


@dataclass(frozen=True)
class Seeing:
    """A network and what it expects to see.

    Attributes:
        network: with its weights.
        normalisation: of pixels between 0 and 1.
        words: which one it is.
    """

    network: nn.Module
    normalisation: Normalisation
    words: str


def open_network(name: str, named: str | None = None) -> Seeing:
    """A trained network by name or path.

    Args:
        name: one of :data:`KINDS`.
        named: of a folder that `racecar train` wrote, the model's ``module:NAME`` that the user has repeated.

    Raises:
        StudyError, ValueError: none there, damaged, not to be downloaded, or not of a known kind.
    """
    library = checkpoint.library(name)
    if library is not None:
        network = _pretrained(library, name.partition(":")[2])
        own = getattr(network, "pretrained_cfg", {})  # timm's
        seen = Normalisation(tuple(own["mean"]), tuple(own["std"])) if {"mean", "std"} <= own.keys() else IMAGENET
        return Seeing(network, seen, name)
    path = Path(name)
    if path.is_dir() and (path / "model.json").exists():
        network, metadata = checkpoint.open_checkpoint(path, named)
        return Seeing(network, checkpoint.normalisation(metadata), f"{metadata['model']} ({path.name})")
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        raise StudyError(f"{name} is not a network: use {KINDS}")
    if file.suffix != ".safetensors":
        raise StudyError(f"{name} is not a .safetensors file (nothing else is opened): use {KINDS}")
    try:
        network = VGG19.of(read_tensors(file))
    except ValueError as error:
        raise StudyError(f"{file}: {error}") from error
    words = "/".join(file.parent.parts[-2:]) if path.is_dir() else file.name
    return Seeing(network, IMAGENET, words)


def _pretrained(library: str, name: str) -> nn.Module:
    """With the weights that the library downloads, timm's as safetensors, torchvision's by torch's safe unpickler."""
    make_model(f"{library}:{name}")  # says what is wrong with the name, before anything is downloaded
    try:
        if library == "timm":
            return make_model(f"timm:{name}", pretrained=True)
        models: Any = importlib.import_module("torchvision.models")
        network = models.get_model(name)
        weights = models.get_model_weights(name).DEFAULT
        network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(
            f"the pretrained weights of {library}:{name} cannot be loaded: {said}. Without a network connection, give "
            "a .safetensors file with them"
        ) from error
    return network
