"""Where a training's numbers go after every epoch: Accelerate's trackers, and a CSV file.

OUT/tensorboard/    TensorBoard's
OUT/log.csv         a line per epoch

Weights & Biases and MLflow keep theirs where their own settings say, in a project "racecar".
"""

from __future__ import annotations

import csv
import importlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from racecar.study.classification.evaluation import Point
from racecar.study.classification.training import Trainer
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_text
from racecar.study.core.folder import Study

Tracker = Literal["tensorboard", "csv", "wandb", "mlflow"]
Note = Callable[[Point, int], None]
PROJECT = "racecar"
_COLUMNS = {  # names in the log, by a point's field
    "loss": "loss/cross-entropy",
    "penalty": "loss/penalty",
    "train_accuracy": "accuracy/train",
    "accuracy": "accuracy/validation",
    "top5": "accuracy/validation-top5",
    "error": "loss/penalty-validation",
    "seconds": "seconds-per-epoch",
}


def check_trackers(names: Sequence[str]) -> None:
    """Before anything costly, whether all are known and installed.

    Raises:
        StudyError: one is not.
    """
    for name in names:
        if name not in get_args(Tracker):
            raise StudyError(f"--log {name}: there are {', '.join(get_args(Tracker))}")
        if name in ("wandb", "mlflow"):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise StudyError(f"--log {name} needs {name}: pip install {name}") from error


@contextmanager
def tracked(names: Sequence[str], study: Study, trainer: Trainer) -> Iterator[Note]:
    """Start the trackers, in the main process alone; yields what tells them of an epoch, and ends them.

    What an earlier call has told of beyond the point that the training goes on from counts no more in TensorBoard and
    CSV; the other two keep it, and get the same numbers again.

    Args:
        names: of trackers, see :data:`Tracker`.
        study: the training's folder.
        trainer: which has been restored.

    Raises:
        StudyError: one cannot begin, or a file cannot be written. A service that fails later is left out, and said.
    """
    if not trainer.accelerator.is_main_process:
        yield lambda point, step: None
        return
    started: list[GeneralTracker] = []

    def note(point: Point, step: int) -> None:
        values = {name: getattr(point, field) for field, name in _COLUMNS.items()}
        values["learning-rate"] = trainer.recipe.rate(step - 1, trainer.steps_per_epoch)
        numbers = {k: v for k, v in values.items() if v is not None}
        for tracker in [*started]:
            try:
                tracker.log(numbers, step=step)
                if isinstance(tracker, TensorBoardTracker):
                    tracker.writer.flush()
            except Exception as error:  # whatever a service or its client stumbles over
                if isinstance(tracker, TensorBoardTracker):
                    raise StudyError(
                        f"cannot write {study.folder / 'tensorboard'}: {error}. The saved state of before is unchanged."
                    ) from error
                started.remove(tracker)
                words = f"racecar: {tracker.name} fails ({_line(error)}): it is told nothing more, training goes on"
                print(words, file=sys.stderr)
        if "csv" in names:
            _write_csv(study.folder / "log.csv", trainer)

    try:
        for name in dict.fromkeys(names):
            if name != "csv":
                try:
                    tracker = _MAKE[name](study, trainer)
                    tracker.start()
                except Exception as error:  # as above
                    raise StudyError(f"--log {name} cannot begin: {_line(error)}") from error
                started.append(tracker)
                if name == "mlflow":
                    study.note(mlflow=tracker.tracker.info.run_id)
        yield note
    finally:
        for tracker in started:
            tracker.finish()


def _tensorboard(study: Study, trainer: Trainer) -> GeneralTracker:
    return TensorBoardTracker("tensorboard", study.folder, purge_step=trainer.step + 1)


def _wandb(study: Study, trainer: Trainer) -> GeneralTracker:
    # The same run after an interruption: named by when the folder was begun.
    begun = zlib.crc32(f"{study.folder.resolve()} {study.metadata()['started']}".encode())
    return WandBTracker(
        PROJECT, dir=str(study.folder), id=f"{PROJECT}-{begun:08x}", resume="allow", name=study.folder.name,
        config=study.metadata()["config"],
    )  # fmt: skip


def _mlflow(study: Study, trainer: Trainer) -> GeneralTracker:
    return MLflowTracker(PROJECT, run_id=study.metadata().get("mlflow"), run_name=study.folder.name)


_MAKE: Mapping[str, Callable[[Study, Trainer], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _write_csv(path: Path, trainer: Trainer) -> None:
    """All epochs anew: whole or as it was before, and nothing twice."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "step", "learning-rate", *_COLUMNS.values()])
    for point in trainer.history:
        step = point.epoch * trainer.steps_per_epoch
        rate = trainer.recipe.rate(step - 1, trainer.steps_per_epoch)
        writer.writerow([point.epoch, step, rate, *(getattr(point, field) for field in _COLUMNS)])
    write_text(path, text.getvalue())
