"""Models by name: ``timm:NAME``, ``torchvision:NAME`` or ``module:NAME`` of a class or function."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from torch import nn

import racecar_command


def make_model(name: str, **options: Any) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: see the module.
        options: for the constructor, e.g. ``num_classes``.

    Raises:
        ValueError: no such model, or it does not take the options.
    """
    source, separator, what = name.partition(":")
    if not separator:
        raise ValueError(f"{name!r} is not a model: use timm:NAME, torchvision:NAME or module:NAME")
    if source in ("timm", "torchvision"):
        try:
            library = importlib.import_module("timm" if source == "timm" else "torchvision.models")
        except ImportError as error:
            raise ValueError(f"{name} needs {racecar_command.remedy(source) or error}") from error
        make = library.create_model if source == "timm" else library.get_model
        try:
            return make(what, **options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{source} has no model {what!r}: {error}") from error
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(source), what)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    finally:
        sys.path.pop(0)
    try:
        built = found if isinstance(found, nn.Module) else found(**options)
    except TypeError as error:
        raise ValueError(f"{name} cannot be made with {options or 'no arguments'}: {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} is not a torch.nn.Module but {type(built).__name__}")
    return built
