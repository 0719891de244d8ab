"""A worker and its locks: taken, kept alive by steps, given back, and nothing written once they are lost."""

import os
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.locks import Lock, Locks, LostError, holder_name
from racecar.study.core.variants import Run, Variant
from racecar.study.studies import ReadyStudy
from racecar.study.sweep import workers as module
from racecar.study.sweep.workers import Census, Job, Processes, Submitted, Worker

RUN = Run(Variant("Std"), "A", 0)
STATE = Progress({"w": torch.ones(2)}, {"run": RUN.key})
Training = Callable[[Study, Callbacks], bool]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Training], Worker]:
    """Makes a worker with one job, from what its training does."""

    def make(training: Training) -> Worker:
        def train(study: Study, config: Any, runs: Sequence[Run], inputs: Any, callbacks: Callbacks) -> bool:
            return training(study, callbacks)

        division = types.SimpleNamespace(work=lambda study, config, runs: (10, 0))
        spec = types.SimpleNamespace(SPEC=types.SimpleNamespace(train=train, division=division))
        monkeypatch.setitem(sys.modules, "a_study", spec)  # type: ignore[arg-type]
        ready = ReadyStudy("a_study", Study(tmp_path / "s", "x", {}), None, None)
        return Worker(tmp_path / "claims", [Job("job", ready, [RUN])], torch.get_num_threads(), lease=0.1, beat=0.02)

    return make


def taken_over(worker: Worker) -> None:
    """As by somebody who has seen no sign of life."""
    claims = Locks(worker.claims)
    claims._next("job", claims.state("job").number, 0).release(finished=True)


def test_what_is_finished_is_given_back_as_finished(worker) -> None:
    made = worker(lambda study, callbacks: study.finish(RUN, {}, {}))
    assert made() == ""
    state = Locks(made.claims).state("job")
    assert (state.number, state.finished, state.open) == (0, True, False)


@pytest.mark.parametrize("error", [None, StudyError("broken"), RuntimeError("broken")])
def test_what_is_not_finished_is_free_for_others_at_once(worker, error) -> None:
    calls: list[int] = []

    def training(study: Study, callbacks: Callbacks) -> bool:
        calls.append(1)
        if error is not None:
            raise error
        return False

    made = worker(training)
    said = made(lambda: bool(calls))
    assert said.startswith("broken") == (error is not None)
    state = Locks(made.claims).state("job")
    assert (state.number, state.finished, state.open) == (0, False, True)


def test_steps_work_and_evaluations_are_signs_of_life(worker, monkeypatch) -> None:
    signs: list[int] = []
    counts: list[int] = []
    monkeypatch.setattr(Lock, "alive", lambda self: signs.append(1))

    def training(study: Study, callbacks: Callbacks) -> bool:
        for sign in (lambda: None, callbacks.stop, lambda: callbacks.advance(1), callbacks.alive):
            sign()
            counts.append(len(signs))
        study.finish(RUN, {}, {})
        return True

    assert worker(training)() == ""
    assert [n - counts[0] for n in counts] == [0, 1, 2, 3]


WRITES: dict[str, Callable[[Study], Any]] = {
    "state": lambda study: study.save_progress("Std_A-seed-0", STATE),
    "weights": lambda study: study.keep(RUN, "model", {"w": torch.ones(2)}),
    "metrics": lambda study: study.conclude(RUN, {}),
    "all of a run": lambda study: study.finish(RUN, {"w": torch.ones(2)}, {}),
    "no state any more": lambda study: study.drop_progress("Std_A-seed-0"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_who_comes_back_after_its_lock_was_taken_over_writes_nothing(worker, write, capsys) -> None:
    seen: list[dict[str, bytes]] = []

    def files(study: Study) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}

    def training(study: Study, callbacks: Callbacks) -> bool:
        if seen:  # as it is not finished, the worker takes it again when the other one gives it back
            write(study)
            study.finish(RUN, {}, {})
            return True
        Study(study.folder, "x", {}).save_progress("Std_A-seed-0", STATE)  # the successor's
        taken_over(made)
        seen.append(files(study))
        try:
            write(study)
        finally:
            seen.append(files(study))
        return True

    made = worker(training)
    assert made() == ""
    assert seen[0] == seen[1]
    assert "job was taken over by another worker" in capsys.readouterr().err


def test_a_lock_that_is_lost_while_a_file_is_written_keeps_it_from_its_name(worker, monkeypatch) -> None:
    lost: list[LostError] = []
    fsync = os.fsync

    def training(study: Study, callbacks: Callbacks) -> bool:
        monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), taken_over(made)))
        try:
            study.save_progress("slot", STATE)
        except LostError as error:
            lost.append(error)
        monkeypatch.setattr(os, "fsync", fsync)
        assert [p.name for p in study.folder.iterdir()] == ["study.json"]
        return False

    made = worker(training)
    assert made(lambda: bool(lost)) == ""
    assert len(lost) == 1


def test_a_training_whose_lock_is_lost_is_stopped(worker) -> None:
    asked: list[bool] = []

    def training(study: Study, callbacks: Callbacks) -> bool:
        asked.append(callbacks.stop())
        taken_over(made)
        limit = time.monotonic() + 10
        while not (stopped := callbacks.stop()) and time.monotonic() < limit:  # the heart beats on, and finds out
            time.sleep(0.001)
        asked.append(stopped)
        return False

    made = worker(training)
    assert made(lambda: len(asked) == 2) == ""
    assert asked == [False, True]


def test_folders_that_cannot_be_locked_are_one_line(worker) -> None:
    made = worker(lambda study, callbacks: True)
    made.claims.write_text("")
    assert made() == f"{made.claims}/job cannot be made a folder for claims ([Errno 20] Not a directory: " + (
        f"'{made.claims}/job'): move away what is there"
    )


def test_a_hung_worker_is_killed_if_it_is_one_of_these(worker) -> None:
    engine = Processes(worker(lambda study, callbacks: True))
    killed: list[int] = []
    engine._running = [(types.SimpleNamespace(pid=n, kill=lambda n=n: killed.append(n)), None) for n in (7, 8)]
    assert not engine.end("elsewhere, process 7")
    assert not killed
    assert engine.end(holder_name(8))
    assert killed == [8]


class Slurm:
    """Stand-ins for SLURM's commands, of a cluster without accounting; the queue is a file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("submitit")
        self.queue, self.jobs = folder / "queue", folder / "jobs"
        self.queue.touch()
        commands = {
            "sbatch": f"echo 7 0 >> {self.queue}; echo Submitted batch job 7",
            "scancel": f": > {self.queue}",
            "squeue": f"cat {self.queue}",
            "srun": "",
            "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
        }
        for name, line in commands.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(module, "ASK", 0.0)

    def engine(self) -> Submitted:
        return Submitted(Worker(self.jobs, []), self.jobs, "slurm", {})

    def ends_with(self, outcome: str, said: str) -> None:
        import submitit

        submitit.core.utils.cloudpickle_dump((outcome, said), self.jobs / "7_0_result.pkl")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Slurm:
    return Slurm(tmp_path, monkeypatch)


def test_a_job_that_slurm_no_longer_has_counts_as_killed_if_its_result_does_not_come_late(slurm) -> None:
    engine = slurm.engine()
    engine.start()
    assert engine.count() == Census(1, 0)
    slurm.queue.write_text("")
    assert engine.count() == Census(1, 0)
    assert engine.count() == Census(0, 1)
    assert engine.count() == Census(0, 0)


def test_a_result_that_is_seen_late_counts(slurm) -> None:
    engine = slurm.engine()
    engine.start()
    slurm.queue.write_text("")
    assert engine.count() == Census(1, 0)
    slurm.ends_with("success", "broken")
    with pytest.raises(StudyError, match=r"training failed; .* broken"):
        engine.count()


def test_a_job_that_was_stopped_and_queued_again_lives_though_it_has_a_result(slurm) -> None:
    engine = slurm.engine()
    engine.start()
    slurm.ends_with("success", "")
    assert engine.count() == Census(1, 0)
    slurm.queue.write_text("")
    assert engine.count() == Census(0, 0)


def test_a_queue_that_does_not_answer_changes_nothing(slurm) -> None:
    engine = slurm.engine()
    engine.start()
    slurm.queue.unlink()
    assert [engine.count() for _ in range(3)] == [Census(1, 0)] * 3


def test_jobs_of_an_earlier_call_count_while_slurm_has_them(slurm) -> None:
    slurm.engine().start()
    assert slurm.engine().count() == Census(1, 0)
    slurm.queue.write_text("70 0\n")
    assert slurm.engine().count() == Census(0, 0)


def test_a_job_that_hangs_is_cancelled_and_one_that_is_queued_again_is_not(slurm, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    engine, holder = slurm.engine(), holder_name(9)
    engine.start()
    slurm.queue.write_text("7 1\n")  # what held was killed with its node
    assert not engine.end(holder)
    assert slurm.queue.read_text() == "7 1\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert engine.end(holder_name(9))
    assert slurm.queue.read_text() == ""
    assert not engine.end(holder_name(9))
