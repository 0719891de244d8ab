"""As many workers as there is work for, where some hang."""

import json
import types
from pathlib import Path
from typing import Any

import pytest

from racecar.study.core import locks as locks_module
from racecar.study.core.errors import StudyError
from racecar.study.core.locks import Locks
from racecar.study.sweep import drive as module
from racecar.study.sweep.drive import MOST_KILLED, drive
from racecar.study.sweep.workers import Census


class Engine:
    """Workers that take the first job and hang, but for the last one."""

    def __init__(self, folder: Path, hanging: int) -> None:
        self.folder, self.hanging, self.job = folder, hanging, types.SimpleNamespace(name="job", finished=False)
        self.living: list[str] = []
        self.started = 0
        self.dying = self.dead = ""
        self.ended: list[str] = []

    def start(self) -> None:
        self.started += 1
        (self.folder / "job").mkdir(exist_ok=True)
        content = {"state": "held", "holder": f"here, process {self.started}", "machine": "m", "process": 1}
        (self.folder / "job" / str(self.started - 1)).write_text(json.dumps(content))
        self.living.append(content["holder"])
        self.job.finished = self.started > self.hanging

    def count(self) -> Census:
        killed = self.living.count(self.dead)
        self.living = [h for h in self.living if h != self.dead]
        self.dead = self.dying
        return Census(len(self.living), killed)

    def end(self, holder: str) -> bool:
        self.ended.append(holder)
        self.dying = holder  # it takes a moment
        return True

    def finish(self) -> None:
        pass

    def stop(self) -> str:
        return ""


def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: int) -> tuple[Engine, bool]:
    clock: Any = types.SimpleNamespace(now=0.0)
    clock.monotonic, clock.sleep = lambda: clock.now, lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(locks_module, "time", clock)
    engine = Engine(tmp_path, hanging)
    stop = lambda: clock.now > 200  # noqa: E731
    return engine, drive(engine, [engine.job], Locks(tmp_path, lease=5), 1, {"job": (1, 0)}, lambda n: None, stop)


def test_a_worker_that_hangs_is_ended_and_another_one_started(tmp_path, monkeypatch, capsys) -> None:
    engine, complete = driven(tmp_path, monkeypatch, hanging=2)
    assert complete
    assert engine.ended == ["here, process 1", "here, process 2"]
    assert engine.started == 3
    assert "a worker gives no sign of life and is ended (here, process 1): no step for 30 minutes" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_job_at_which_all_workers_hang_is_an_error(tmp_path, monkeypatch) -> None:
    with pytest.raises(StudyError, match=f"{MOST_KILLED + 1} workers were killed .*do they hang"):
        driven(tmp_path, monkeypatch, hanging=100)
