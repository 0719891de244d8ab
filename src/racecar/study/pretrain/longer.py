"""More epochs for a training that has ended: the same bytes as if they had been asked for at once, or a refusal.

OUT/end.safetensors    the state at the end, weights with the optimiser's moments; without it there is no going on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from racecar.study.classification.recipe import Recipe
from racecar.study.core.checkpoints import Progress, read_progress, write_progress
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study, read_description
from racecar.study.core.sole import sole_use


def keep_end(study: Study, recipe: Recipe, state: Progress) -> None:
    """Keep the last state, where the learning rate does not say that this is the end.

    Raises:
        StudyError: the disk refuses.
    """
    if _goes_on(recipe):
        write_progress(_end(study.folder), state)


def read_end(study: Study) -> Progress | None:
    """The last state; None where there is none."""
    return read_progress(_end(study.folder))


def raise_epochs(folder: Path, name: str, config: Mapping[str, Any], recipe: Recipe) -> None:
    """Where a folder differs from what is asked for by fewer epochs alone, make it an unfinished one of more epochs.

    Args:
        folder: of the training, by one process.
        name, config: as for :class:`racecar.study.core.folder.Study`.
        recipe: the same that ``config`` holds.

    Raises:
        StudyError: a schedule that depends on the number of epochs, or the state at the end is gone.
    """
    if not (folder / "study.json").exists():
        return
    known = read_description(folder / "study.json")["config"]
    epochs = known.get("recipe", {}).get("epochs", recipe.epochs)
    now = json.loads(json.dumps(config))
    if now != {**known, "recipe": {**known.get("recipe", {}), "epochs": recipe.epochs}} or not epochs < recipe.epochs:
        return
    if not _goes_on(recipe):
        raise StudyError(
            f"{folder} was trained for {epochs} epochs, over which the {recipe.schedule} schedule lets the rate "
            f"fall to zero; over {recipe.epochs} it falls otherwise from the beginning. Choose another --out, or go on "
            f"from its weights: racecar transfer --restart keep --from {folder}"
        )
    model = folder / "model.json"
    if model.exists() and not _end(folder).exists():
        raise StudyError(
            f"{_end(folder)}, the state at the end of {epochs} epochs, does not exist (deleted, or the training is an "
            "earlier version's): without it nothing can go on to the same weights. Choose another --out"
        )
    # In this order: whenever it is killed, the folder is an unfinished training whose state is there.
    with sole_use(folder):
        model.unlink(missing_ok=True)
        Study(folder, name, known).note(config=now)


def _goes_on(recipe: Recipe) -> bool:
    """Whether the learning rates of the epochs done are those of a longer training."""
    return recipe.schedule != "cosine"


def _end(folder: Path) -> Path:
    return folder / "end.safetensors"
