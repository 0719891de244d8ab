"""Who trains what, where several machines share a folder and any of them may die: claims with a heartbeat.

    FOLDER/NAME/0, 1, 2 …      one file per claim on NAME; the highest number counts

Numbers only grow. A claim is made by creating the next number exclusively, which one process alone can do, on network
file systems too; no claim is ever replaced or removed, so there is no moment in which two processes can both succeed.
The holder rewrites its file every few seconds, as long as its work goes on: who has told of no progress for
:data:`STALL` seconds hangs, and gives no more signs of life. A claim is open again once it was released, once its
process is seen to be dead (on the same machine), or once it has not been rewritten for :data:`LEASE` seconds *by the
watcher's own monotonic clock*: the clocks of two machines are never compared. Who was only suspended finds a higher
number when it wakes up, before it writes anything, and stops.

Whatever else lies there (``.nfs…``, ``.DS_Store``, ``0~``, ``0 (conflicted copy)``) is no claim and changes nothing; a
claim that cannot be read is one whose holder says nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEASE = 120.0  # seconds; network file systems may show a change a minute late
BEAT = 10.0
STALL = 1800.0  # seconds; a step, a batch of an evaluation, a data set read, or a program derived, takes far less


class LockError(OSError):
    """The folder of the claims cannot be used; the message is for the user."""


class LostError(Exception):
    """A claim counts no more: somebody else has made the next one."""


@dataclass(frozen=True)
class State:
    """What a name's claims say.

    Attributes:
        number: of the claim that counts, -1 for none.
        open: whether the next one may be made.
        finished: whether its holder has said that nothing is left to do.
        done: work that its holder has told of.
        holder: machine and process, in words.
        silent: whether it is open because its holder gives no sign of life.
    """

    number: int
    open: bool
    finished: bool = False
    done: int = 0
    holder: str = ""
    silent: bool = False


class Locks:
    """Claims below a folder, as one process sees them.

    Args:
        folder: created if needed.
        lease: seconds without a sign of life after which a holder counts as dead.
        beat: seconds between signs of life.
        stall: seconds without progress after which a claim of this process gives none any more.
    """

    def __init__(self, folder: Path, lease: float = LEASE, beat: float = BEAT, stall: float = STALL) -> None:
        self.folder, self.lease, self.beat, self.stall = folder, lease, beat, stall
        self._seen: dict[str, tuple[tuple[int, int, str], float]] = {}

    def names(self) -> list[str]:
        """Whatever has claims, or had.

        Raises:
            LockError: they cannot be listed.
        """
        try:
            return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and p.name[0] != ".")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LockError(f"{self.folder} cannot be listed: {error}") from error

    def state(self, name: str) -> State:
        """What holds now.

        Raises:
            LockError: the claims cannot be listed.
        """
        number = max(_numbers(self.folder / name), default=-1)
        if number < 0:
            return State(-1, True)
        changed, content = 0, ""
        # Opened, not only looked up: that is when network file systems ask the server.
        with suppress(OSError), (self.folder / name / str(number)).open("rb") as file:
            content, changed = file.read().decode("utf-8", "replace"), os.fstat(file.fileno()).st_mtime_ns
        sign = (number, changed, content)
        if name not in self._seen or self._seen[name][0] != sign:
            self._seen[name] = (sign, time.monotonic())
        late = time.monotonic() - self._seen[name][1] > self.lease
        claim = Claim.read(content)
        given_up = claim.state in ("released", "finished")
        return State(
            number,
            late or claim.state == "released" or claim.dead,
            claim.state == "finished",
            claim.done,
            claim.holder,
            late and not given_up,
        )

    def seconds(self, name: str) -> float:
        """How long it was held, by one after the other."""
        found = 0.0
        for number in _numbers(self.folder / name):
            with suppress(OSError):
                found += Claim.read((self.folder / name / str(number)).read_text("utf-8", "replace")).seconds
        return found

    def take(self, name: str, done: int = 0, *, stall: float | None = None) -> Lock | None:
        """Claim a name; None where somebody holds it, or was faster.

        Args:
            name: also a folder's.
            done: work done before.
            stall: another limit than this object's.

        Raises:
            LockError: the folder cannot be used.
        """
        state = self.state(name)
        return self._next(name, state.number, done, stall) if state.open else None

    def reopen(self, name: str) -> None:
        """Let somebody take at once what was finished, as there is more to do.

        Raises:
            LockError: the folder cannot be used.
        """
        if (claim := self._next(name, self.state(name).number, 0)) is not None:
            claim.release()

    def _next(self, name: str, number: int, done: int, stall: float | None = None) -> Lock | None:
        path = self.folder / name / str(number + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LockError(
                f"{path.parent} cannot be made a folder for claims ({error}): move away what is there"
            ) from error
        try:
            path.open("x").close()
        except FileExistsError:
            return None
        except OSError as error:
            raise LockError(f"{path} cannot be written: {error}") from error
        return Lock(path, self.beat, done, self.stall if stall is None else stall)

    @contextmanager
    def hold(self, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for a name, and have it for the block, however long that tells of no progress.

        Args:
            name: as for :meth:`take`.
            waiting: called once where somebody else has it.

        Raises:
            LockError: the folder cannot be used.
        """
        claim = self.take(name, stall=math.inf)
        if claim is None:
            waiting()
        while claim is None:
            time.sleep(0.2)
            claim = self.take(name, stall=math.inf)
        try:
            yield
        finally:
            claim.release()


class Lock:
    """A claim of this process; a thread keeps it alive while the work goes on.

    Args:
        path: its file.
        beat: seconds between signs of life.
        done: work done so far, for who watches.
        stall: seconds without progress after which it gives no more signs of life, until there is progress again.
    """

    def __init__(self, path: Path, beat: float, done: int = 0, stall: float = STALL) -> None:
        self.path, self.done, self.stall = path, done, stall
        self.lost = False
        self._over = threading.Event()
        self._began = self._moved = time.monotonic()
        self._write("held")
        self._thread = threading.Thread(target=self._live, args=(beat,), daemon=True)
        self._thread.start()

    def advance(self, units: int) -> None:
        """So much more is done."""
        self.done += units
        self.alive()

    def alive(self) -> None:
        """Something was done, also where it counts for no unit of the work: a step, or a batch looked at."""
        self._moved = time.monotonic()

    def check(self) -> None:
        """Ask the folder whether this claim still counts; to be called before anything is written.

        Raises:
            LostError: it does not.
            LockError: the folder cannot be read.
        """
        self.lost = self.lost or any(n > int(self.path.name) for n in _numbers(self.path.parent))
        if self.lost:
            raise LostError(
                f"{self.path.parent.name} was taken over by another worker: this one was suspended, or did no step for "
                f"{self.stall / 60:g} minutes"
            )

    def release(self, *, finished: bool = False) -> None:
        """Give it up; what is finished stays closed for a lease, as others may see its results late."""
        self._over.set()
        self._thread.join()
        with suppress(LostError, LockError):
            self.check()
            self._write("finished" if finished else "released")

    def _live(self, beat: float) -> None:
        while not self._over.wait(beat):
            try:
                self.check()
            except LostError:
                return
            except LockError:
                continue  # a server away for a moment ends nothing
            if time.monotonic() - self._moved <= self.stall:
                self._write("held")

    def _write(self, state: str) -> None:
        content = {"state": state, "holder": holder_name(os.getpid()), "done": self.done}
        content |= {"machine": _machine(), "process": os.getpid(), "beat": time.monotonic_ns()}
        content["seconds"] = round(time.monotonic() - self._began, 1)
        with suppress(OSError):  # a full disk or a server away for a moment ends nothing
            self.path.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class Claim:
    """What a claim's file says; fields that it lacks, or that are none, have their defaults.

    Attributes:
        state: ``"held"``, ``"released"`` or ``"finished"``.
        holder: in words.
        machine: see :func:`_machine`.
        process: its number there.
        done: work done.
        seconds: that it was held for.
    """

    state: str = ""
    holder: str = ""
    machine: str = ""
    process: int = 0
    done: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, text: str) -> Claim:
        """From a file's content; empty while it is being written, if its holder died then, and if it is no claim."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(content, dict):
            return cls()
        words = {k: content[k] for k in ("state", "holder", "machine") if isinstance(content.get(k), str)}
        counts = {k: content[k] for k in ("process", "done") if type(content.get(k)) is int and 0 <= content[k] < 2**31}
        seconds: Any = content.get("seconds")
        known = type(seconds) in (int, float) and 0 <= seconds < math.inf
        return cls(**words, **counts, seconds=seconds if known else 0.0)

    @property
    def dead(self) -> bool:
        """Whether the holder was a process of this machine that is gone."""
        if self.state != "held" or not self.process or not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def holder_name(process: int) -> str:
    """A process of this machine, and of this cluster's job, in words, as its claims say them."""
    local, job = os.environ.get("SUBMITIT_LOCAL_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    words = job_name(local or job or "", "" if local else os.environ.get("SLURM_RESTART_COUNT", ""))
    return f"{platform.node()}, process {process}{words}"


def job_name(job: str, restarts: str) -> str:
    """How a holder's name ends. A job that SLURM queues again keeps its number: what it was before is another holder.

    Args:
        job: its number, empty for none.
        restarts: how often it was queued again, empty for never.
    """
    return (f", job {job}" if job else "") + (f", restart {restarts}" if job and restarts.strip("0") else "")


def foreign(folder: Path) -> list[Path]:
    """What lies among the claims and is none, beside the hidden files and backups that systems and editors leave.

    A synchronised folder puts there what it could not unite, and is no shared one: two machines may both hold a claim.
    """
    names = (p for p in sorted(folder.glob("*/*")) if p.name[0] != "." and p.name[-1] != "~")
    return [p for p in names if re.fullmatch(_NUMBER, p.name) is None]


_NUMBER = "0|[1-9][0-9]{0,8}"


def _numbers(folder: Path) -> list[int]:
    """Of all claims in a name's folder."""
    try:
        return [int(name) for name in os.listdir(folder) if re.fullmatch(_NUMBER, name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LockError(f"{folder} cannot be listed: {error}") from error


def _machine() -> str:
    """Where process numbers mean what they mean here; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
