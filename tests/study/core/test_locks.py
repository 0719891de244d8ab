"""Claims: one of many processes gets a name, the dead are succeeded, the living are not, clocks do not matter."""

import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from racecar.study.core import locks as module
from racecar.study.core.locks import Locks

# Without racecar itself, and so without torch: it starts in a moment.
TAKE = """
import os, pathlib, runpy, sys, time
Locks = runpy.run_path(sys.argv[1], run_name="claims")["Locks"]
root, names = pathlib.Path(sys.argv[2]), sys.argv[3:]
claims = Locks(root / "claims")
(root / f"ready-{os.getpid()}").touch()
while len(list(root.glob("ready-*"))) < int(os.environ["TOGETHER"]):
    time.sleep(0.001)
for name in names:
    if claims.take(name) is not None:
        (root / f"{name}-won-by-{os.getpid()}").touch()
while len(list(root.glob("*-won-by-*"))) < len(names):  # who ends is dead, and may be succeeded
    time.sleep(0.01)
time.sleep(0.5)
"""


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def takers(count: int, folder: Path, *names: str) -> None:
    argv = [sys.executable, "-c", TAKE, module.__file__, str(folder), *names]
    children = [subprocess.Popen(argv, env=os.environ | {"TOGETHER": str(count)}) for _ in range(count)]
    assert [c.wait(60) for c in children] == [0] * count


def test_of_many_processes_one_gets_each_name_and_nobody_a_second_time(tmp_path) -> None:
    names = [f"task-{i}" for i in range(60)]
    takers(4, tmp_path, *names)
    won = [p.name.partition("-won-by-")[0] for p in tmp_path.glob("*-won-by-*")]
    assert sorted(won) == sorted(names)


def held_by(folder: Path, **content: object) -> None:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "0").write_text(json.dumps({"state": "held", "holder": "far, process 7", "done": 5, **content}))


def test_a_killed_process_of_this_machine_is_succeeded_at_once(tmp_path) -> None:
    takers(1, tmp_path, "a")
    tmp_path = tmp_path / "claims"
    assert json.loads((tmp_path / "a" / "0").read_text())["state"] == "held"
    claim = Locks(tmp_path).take("a")
    assert claim is not None
    claim.release()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["0", "1"]


@pytest.fixture
def clock(monkeypatch) -> types.SimpleNamespace:
    """Time that passes when a test says so."""
    found = types.SimpleNamespace(now=0.0, monotonic_ns=time.monotonic_ns, sleep=time.sleep)
    found.monotonic = lambda: found.now
    monkeypatch.setattr(module, "time", found)
    return found


@pytest.mark.parametrize("written", ["1970", "now", "2200"])
def test_on_another_machine_silence_counts_by_the_watchers_clock_alone(tmp_path, clock, written) -> None:
    held_by(tmp_path, machine="another boot", process=1)
    if written != "now":  # a server's clock may be anywhere
        moment = 0 if written == "1970" else 7_258_118_400
        os.utime(tmp_path / "a" / "0", (moment, moment))
    claims = Locks(tmp_path, lease=100)
    assert claims.take("a") is None
    clock.now = 99.0
    assert not claims.state("a").open
    clock.now = 101.0
    claim = claims.take("a")
    assert claim is not None
    claim.release()


def test_signs_of_life_keep_a_claim_for_longer_than_a_lease(tmp_path, clock) -> None:
    claim = Locks(tmp_path, beat=0.05).take("a", done=3)
    assert claim is not None
    watcher = Locks(tmp_path, lease=100)
    for _ in range(3):
        assert watcher.take("a") is None
        clock.now += 90
        before = (tmp_path / "a" / "0").read_text()
        until(lambda before=before: (tmp_path / "a" / "0").read_text() not in ("", before))
    claim.advance(4)
    until(lambda: watcher.state("a").done == 7)
    claim.release()
    assert watcher.seconds("a") == 270.0
    assert watcher.state("a").open


def test_who_slept_through_its_lease_finds_out_and_leaves_the_successors_claim_alone(tmp_path) -> None:
    claim = Locks(tmp_path, beat=0.05).take("a")
    assert claim is not None
    successor = Locks(tmp_path)._next("a", 0, 0)  # as made by who has seen no sign of life
    until(lambda: claim.lost)
    claim.release(finished=True)
    assert not Locks(tmp_path).state("a").open
    assert not Locks(tmp_path).state("a").finished
    successor.release()


def test_what_is_finished_stays_closed_until_reopened(tmp_path) -> None:
    claims = Locks(tmp_path)
    claims.take("a").release(finished=True)
    assert (claims.state("a").open, claims.state("a").finished) == (False, True)
    claims.reopen("a")
    again = claims.take("a")
    assert again is not None
    again.release()


def test_a_claim_whose_holder_died_while_writing_it_is_held_for_a_lease(tmp_path, clock) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").touch()
    claims = Locks(tmp_path, lease=100)
    assert claims.take("a") is None
    clock.now = 101.0
    claim = claims.take("a")
    assert claim is not None
    claim.release()


def test_a_name_is_waited_for(tmp_path) -> None:
    said: list[str] = []
    first = Locks(tmp_path).take("a")
    threading.Timer(0.5, first.release).start()
    with Locks(tmp_path).hold("a", lambda: said.append("waiting")):
        assert json.loads((tmp_path / "a" / "0").read_text())["state"] == "released"
        assert not Locks(tmp_path).state("a").open
    assert Locks(tmp_path).state("a").open
    assert said == ["waiting"]
