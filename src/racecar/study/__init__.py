"""The paper's experiments, and training on one's own images. ``import racecar.study`` gives

- ``train`` and ``transfer``, which do what the commands do, and return objects with numbers and paths;
- ``evaluate``, ``predict``, ``embed``, ``regenerate`` and ``export``, for what was trained, in the same way;
- ``Source``, ``Mirror``, ``Recipe`` and ``Extras``, their arguments: where images come from, how racecar is used, how
  one trains.

Needs the ``[study]`` extra; imports ``racecar``, never the other way round.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import racecar_command

if TYPE_CHECKING:
    from racecar.study.classification.extras import Extras
    from racecar.study.classification.recipe import Recipe
    from racecar.study.core.errors import Stopped, StudyError
    from racecar.study.pretrain.mirror import Mirror
    from racecar.study.pretrain.pretraining import train
    from racecar.study.pretrain.source import Source
    from racecar.study.pretrain.trained import Trained
    from racecar.study.pretrain.transferring import Transferred, transfer
    from racecar.study.use.embedding import Embedding, embed
    from racecar.study.use.evaluating import Evaluation, evaluate
    from racecar.study.use.exporting import Exported, export
    from racecar.study.use.predicting import Predictions, predict
    from racecar.study.use.regenerating import Regenerated, regenerate

# Loaded when asked for: a command pays for what it uses.
_HOMES = {
    "Embedding": "use.embedding",
    "Evaluation": "use.evaluating",
    "Exported": "use.exporting",
    "Extras": "classification.extras",
    "Mirror": "pretrain.mirror",
    "Predictions": "use.predicting",
    "Recipe": "classification.recipe",
    "Regenerated": "use.regenerating",
    "Source": "pretrain.source",
    "Stopped": "core.errors",
    "StudyError": "core.errors",
    "Trained": "pretrain.trained",
    "Transferred": "pretrain.transferring",
    "embed": "use.embedding",
    "evaluate": "use.evaluating",
    "export": "use.exporting",
    "predict": "use.predicting",
    "regenerate": "use.regenerating",
    "train": "pretrain.pretraining",
    "transfer": "pretrain.transferring",
}

__all__ = [
    "Embedding",
    "Evaluation",
    "Exported",
    "Extras",
    "Mirror",
    "Predictions",
    "Recipe",
    "Regenerated",
    "Source",
    "Stopped",
    "StudyError",
    "Trained",
    "Transferred",
    "embed",
    "evaluate",
    "export",
    "predict",
    "regenerate",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if line := racecar_command.remedy_for(error):
            raise ModuleNotFoundError(f"racecar.study.{name} needs {line}", name=error.name) from error
        raise
