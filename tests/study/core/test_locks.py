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
from racecar.study.core.locks import LockError, Locks, LostError, State, foreign

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


def dead_process() -> int:
    """A number that no process of this machine has."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_dead_process_is_succeeded_at_once_and_a_machine_with_the_same_numbers_is_not(tmp_path) -> None:
    gone = dead_process()
    held_by(tmp_path / "far", machine="another boot", process=gone)
    held_by(tmp_path / "unknown", process=gone)
    held_by(tmp_path / "here", machine=module._machine(), process=gone)
    assert [Locks(tmp_path / n).state("a").open for n in ("far", "unknown", "here")] == [False, False, True]


class Overtaken(Locks):
    """Somebody else is faster, after this one has looked."""

    def state(self, name: str) -> State:
        found = super().state(name)
        self.rival = self.rival if hasattr(self, "rival") else Locks(self.folder).take(name)
        return found


def test_who_looked_first_and_came_second_has_nothing(tmp_path) -> None:
    claims = Overtaken(tmp_path)
    assert claims.take("a") is None
    assert claims.rival is not None
    claims.rival.release()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["0"]


class Metronome:
    """A holder's beat when a test says so, in place of the event that it waits for."""

    def __init__(self) -> None:
        self.waiting, self.next, self.over = threading.Semaphore(0), threading.Semaphore(0), False

    def wait(self, beat: float) -> bool:
        self.waiting.release()
        self.next.acquire()
        return self.over

    def set(self) -> None:
        self.over = True
        self.next.release()

    def beats(self, path: Path) -> bool:
        """Let a beat pass; whether it was a sign of life."""
        before = path.read_text()
        assert self.waiting.acquire(timeout=30)
        self.next.release()
        assert self.waiting.acquire(timeout=30)
        self.waiting.release()
        return path.read_text() != before


def test_who_makes_no_progress_gives_no_sign_of_life_and_is_succeeded(tmp_path, clock, monkeypatch) -> None:
    metronome, path = Metronome(), tmp_path / "a" / "0"
    monkeypatch.setattr(module, "threading", types.SimpleNamespace(Event=lambda: metronome, Thread=threading.Thread))
    claim = Locks(tmp_path, stall=1000).take("a")
    monkeypatch.undo()
    monkeypatch.setattr(module, "time", clock)
    watcher = Locks(tmp_path, lease=100)
    clock.now = 999.0
    assert metronome.beats(path)
    clock.now = 1001.0
    assert not metronome.beats(path)
    assert watcher.take("a") is None
    claim.alive()
    assert metronome.beats(path)  # it was slow, and nobody has come
    clock.now = 2000.0
    claim.advance(1)
    clock.now = 2999.0
    assert metronome.beats(path)
    clock.now = 3001.0
    assert not metronome.beats(path)
    assert not watcher.state("a").silent
    clock.now = 3102.0
    state = watcher.state("a")
    assert (state.open, state.silent, state.holder) == (True, True, module.holder_name(os.getpid()))
    successor = watcher.take("a")
    assert successor is not None
    claim.advance(1)
    with pytest.raises(LostError, match="a was taken over by another worker"):
        claim.check()
    claim.release(finished=True)
    successor.release()
    assert watcher.state("a").open


def test_what_prepares_a_sweep_may_take_its_time(tmp_path, clock, monkeypatch) -> None:
    metronome = Metronome()
    monkeypatch.setattr(module, "threading", types.SimpleNamespace(Event=lambda: metronome, Thread=threading.Thread))
    with Locks(tmp_path, stall=1000).hold("a"):
        clock.now = 10_000.0
        assert metronome.beats(tmp_path / "a" / "0")


def test_who_has_lost_a_claim_learns_it_before_the_next_beat_and_writes_no_more(tmp_path) -> None:
    claim = Locks(tmp_path, beat=1000).take("a")
    claim.check()
    Locks(tmp_path)._next("a", 0, 0).release()  # as made by who has seen no sign of life
    before = (tmp_path / "a" / "0").read_bytes()
    with pytest.raises(LostError):
        claim.check()
    assert claim.lost
    claim.release(finished=True)
    assert (tmp_path / "a" / "0").read_bytes() == before


def test_a_lost_claim_beats_no_more(tmp_path) -> None:
    claim = Locks(tmp_path, beat=0.01).take("a")
    successor = Locks(tmp_path)._next("a", 0, 0)
    until(lambda: not claim._thread.is_alive())
    assert claim.lost
    successor.release()


FOREIGN = (".nfs0000000a", ".DS_Store", "._0", "0~", "0 (conflicted copy).json", "00", "-1", "+7", "1.0", "²", "٣")


def test_what_is_no_claim_changes_nothing(tmp_path) -> None:
    for name in FOREIGN:
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("x")
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / ("9" * 200)).touch()
    claims = Locks(tmp_path)
    assert claims.names() == ["a"]
    assert claims.state("a") == State(-1, True)
    claim = claims.take("a")
    assert claim.path.name == "0"
    assert claims.seconds("a") == 0
    claim.check()
    claim.release()
    assert claims.state(".DS_Store") == State(-1, True)
    assert Locks(tmp_path / "nothing").names() == []
    assert foreign(tmp_path)[0] == tmp_path / "a" / "+7"


WRONG = [b"", b"[]", b"null", b"7", b'"held"', b"{", b"[" * 100_000, b"\xff\xfe\x00", b"\0" * 40, b"NaN", b"{}"]


@pytest.mark.parametrize("content", WRONG)
def test_a_claim_that_cannot_be_read_is_held_for_a_lease(tmp_path, clock, content) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0").write_bytes(content)
    claims = Locks(tmp_path, lease=100)
    assert claims.state("a") == State(0, False)
    assert claims.seconds("a") == 0
    clock.now = 101.0
    claim = claims.take("a")
    assert claim.path.name == "1"
    claim.release()


@pytest.mark.parametrize("value", [None, [], {}, "7", "", -1, 0, 1.5, 10**30, True, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["state", "holder", "machine", "process", "done", "seconds"])
def test_a_claim_whose_fields_are_something_else_is_no_error(tmp_path, field, value) -> None:
    held_by(tmp_path, **{"machine": module._machine(), "process": os.getpid(), "seconds": 1.0, field: value})
    state = Locks(tmp_path).state("a")
    assert not state.open
    assert state.done in (5, 0, 1)
    assert 0 <= Locks(tmp_path).seconds("a") < 10**31


def test_a_folder_that_cannot_hold_claims_is_one_clear_line(tmp_path) -> None:
    (tmp_path / "claims").write_text("")
    with pytest.raises(LockError, match="claims/a cannot be made a folder for claims"):
        Locks(tmp_path / "claims").take("a")
    with pytest.raises(LockError, match="claims cannot be listed"):
        Locks(tmp_path / "claims").names()
    (tmp_path / "b").write_text("")
    with pytest.raises(LockError, match="b cannot be made a folder for claims"):
        Locks(tmp_path).take("b")
