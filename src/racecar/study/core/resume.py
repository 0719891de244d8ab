"""One run of a study, trained from where an earlier call has left it: the state to go on from, saving, divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from racecar import NonFiniteError
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import DivergedError
from racecar.study.core.folder import Study
from racecar.study.core.schedule import Units
from racecar.study.core.variants import Run


class Resumable(Protocol):
    """A training that goes on from any step to the same result."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def total(self) -> int:
        """Steps in all."""

    def restore(self, state: Progress) -> None:
        """Go on from a saved state."""

    def run(self, callbacks: Callbacks) -> bool:
        """Train to the end; False if it was stopped before, at a saved state."""


def slot(run: Run) -> str:
    """The name of a run's saved state, see :meth:`racecar.study.core.folder.Study.save_progress`."""
    return run.key.replace("/", "-")


def saved_state(study: Study, run: Run) -> Progress | None:
    """What an earlier call has reached in a run; None where it begins."""
    state = study.read_progress(slot(run))
    return state if state is not None and state.metadata.get("run") == run.key else None


def train_run(
    study: Study,
    run: Run,
    training: Resumable,
    cost: int,
    callbacks: Callbacks,
    *,
    before: int = 0,
    after: int = 0,
    writes: bool = True,
) -> str | None:
    """Train a run to its end, its state kept in the study's folder until :meth:`Study.drop_progress`.

    Args:
        study: the folder.
        run: what is trained.
        training: where it begins, or restored from :func:`saved_state`.
        cost: of the training, in the unit that ``callbacks.advance`` is told.
        callbacks: of the caller; states are saved here.
        before, after: cost of what the run does before and after it; the caller tells of that.
        writes: whether this process saves, where several train a run together.

    Returns:
        None if it was stopped. Else why it diverged, which is a result of the study and not an error of it; "" if it
        did not.
    """
    units = Units(cost, training.total, training.step, callbacks.advance)

    def save(state: Progress) -> None:
        if writes:
            parts = {"before": before, "after": after} if before or after else {}
            metadata = state.metadata | {"run": run.key, "total": training.total} | parts
            study.save_progress(slot(run), Progress(state.tensors, metadata))

    failure = ""
    try:
        if not training.run(replace(callbacks, advance=units, save=save)):
            return None
    except (DivergedError, NonFiniteError) as error:
        failure = str(error)
    units.finish()
    return failure
