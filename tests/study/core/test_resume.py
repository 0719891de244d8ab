"""A run trained from where an earlier call has left it: its state in the folder, its units, its end or divergence."""

import torch

import racecar
from racecar.study.core.callbacks import QUIET, Callbacks, Timer
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import DivergedError
from racecar.study.core.folder import Study
from racecar.study.core.resume import saved_state, slot, train_run
from racecar.study.core.schedule import work
from racecar.study.core.variants import Run, Variant

RUN, OTHER = Run(Variant("RR6"), "AB", 3), Run(Variant("Std"), "A", 0)


class Counting:
    """Counts to ten."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.step, self.total, self.fails_at, self.error = 0, 10, fails_at, error

    def restore(self, state: Progress) -> None:
        self.step = int(state.tensors["step"])

    def run(self, callbacks: Callbacks) -> bool:
        while self.step < self.total:
            self.step += 1
            if self.step == self.fails_at:
                raise self.error
            callbacks.advance(1)
            if callbacks.stop():
                callbacks.save(Progress({"step": torch.tensor(self.step)}, {"step": self.step}))
                return False
        return True


def test_stopped_it_leaves_a_state_and_goes_on_from_it(tmp_path) -> None:
    study = Study(tmp_path / "s", "counting", {})
    told: list[int] = []
    assert saved_state(study, RUN) is None
    training = Counting()
    assert train_run(study, RUN, training, 25, Callbacks(told.append, stop=lambda: training.step == 4)) is None
    assert sum(told) == 10
    state = saved_state(study, RUN)
    assert state.metadata == {"step": 4, "run": RUN.key, "total": 10}
    assert saved_state(study, OTHER) is None
    again = Counting()
    again.restore(state)
    assert train_run(study, RUN, again, 25, Callbacks(told.append)) == ""
    assert (again.step, sum(told)) == (10, 25)
    study.drop_progress(slot(RUN))
    assert saved_state(study, RUN) is None


def test_what_a_run_does_before_and_after_its_training_counts_as_work(tmp_path) -> None:
    study = Study(tmp_path / "s", "counting", {})
    told: list[int] = []
    training = Counting()
    parts = {"before": 5, "after": 10}
    assert train_run(study, RUN, training, 20, Callbacks(told.append, stop=lambda: training.step == 5), **parts) is None
    assert sum(told) == 10  # the caller tells of the rest
    assert work(study, [RUN], lambda run: 35) == (35, 15)
    training.restore(saved_state(study, RUN))
    assert train_run(study, RUN, training, 20, Callbacks(told.append), **parts) == ""
    assert sum(told) == 20


def test_one_process_of_several_saves(tmp_path) -> None:
    study = Study(tmp_path / "s", "counting", {})
    assert train_run(study, RUN, Counting(), 10, Callbacks(stop=lambda: True), writes=False) is None
    assert saved_state(study, RUN) is None


def test_divergence_is_a_result_and_the_run_counts_as_done(tmp_path) -> None:
    study = Study(tmp_path / "s", "counting", {})
    for error in (DivergedError("the loss is not finite"), racecar.NonFiniteError("the penalty is not finite")):
        told: list[int] = []
        assert train_run(study, RUN, Counting(3, error), 20, Callbacks(told.append)) == str(error)
        assert sum(told) == 20


def test_by_default_nothing_is_called_and_nothing_stops() -> None:
    assert Counting().run(QUIET)
    assert QUIET.save(Progress({}, {})) is QUIET.note(1, 2, 3) is None


def test_a_state_is_due_after_its_seconds_and_not_again_after_a_restart(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr("racecar.study.core.callbacks.time.monotonic", lambda: now)
    timer = Timer(60.0)
    assert not timer.due
    now = 160.5
    assert timer.due
    timer.restart()
    assert not timer.due


def test_copies_beside_a_state_are_not_gone_on_from_and_count_once(tmp_path) -> None:
    study = Study(tmp_path / "s", "counting", {})
    early, late = (Progress({"step": torch.tensor(n)}, {"run": RUN.key, "step": n, "total": 10}) for n in (2, 8))
    study.save_progress(slot(RUN), late)
    study.save_progress(f"{slot(RUN)} (conflicted copy)", early)
    assert saved_state(study, RUN).metadata["step"] == 8
    assert work(study, [RUN, OTHER], lambda run: 100) == (200, 80)
    study.save_progress(slot(OTHER), late)  # of another run than its name says
    assert saved_state(study, OTHER) is None
