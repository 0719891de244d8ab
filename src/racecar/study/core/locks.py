"""Who trains what, where several machines share a folder and any of them may die: claims with a heartbeat.

    FOLDER/NAME/0, 1, 2 …      one file per claim on NAME; the highest number counts

Numbers only grow. A claim is made by creating the next number exclusively, which one process alone can do, on network
file systems too; no claim is ever replaced or removed, so there is no moment in which two processes can both succeed.
The holder rewrites its file every few seconds. A claim is open again once it was released, once its process is seen to
be dead (on the same machine), or once it has not been rewritten for :data:`LEASE` seconds *by the watcher's own
monotonic clock*: the clocks of two machines are never compared. Who was only suspended finds a higher number when it
wakes up, and stops.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEASE = 120.0  # seconds; network file systems may show a change a minute late
BEAT = 10.0


@dataclass(frozen=True)
class State:
    """What a name's claims say.

    Attributes:
        number: of the claim that counts, -1 for none.
        open: whether the next one may be made.
        finished: whether its holder has said that nothing is left to do.
        done: work that its holder has told of.
    """

    number: int
    open: bool
    finished: bool = False
    done: int = 0


class Locks:
    """Claims below a folder, as one process sees them.

    Args:
        folder: created if needed.
        lease: seconds without a sign of life after which a holder counts as dead.
        beat: seconds between signs of life.
    """

    def __init__(self, folder: Path, lease: float = LEASE, beat: float = BEAT) -> None:
        self.folder, self.lease, self.beat = folder, lease, beat
        self._seen: dict[str, tuple[tuple[int, int, str], float]] = {}

    def state(self, name: str) -> State:
        """What holds now."""
        number = max((int(p.name) for p in (self.folder / name).glob("*")), default=-1)
        if number < 0:
            return State(-1, True)
        changed, text = 0, ""
        # Opened, not only looked up: that is when network file systems ask the server.
        with suppress(OSError), (self.folder / name / str(number)).open(encoding="utf-8") as file:
            text, changed = file.read(), os.fstat(file.fileno()).st_mtime_ns
        try:
            content = json.loads(text)
        except ValueError:
            content = {}  # just being written, or its holder died in that moment
        sign = (number, changed, text)
        if name not in self._seen or self._seen[name][0] != sign:
            self._seen[name] = (sign, time.monotonic())
        silent = time.monotonic() - self._seen[name][1] > self.lease
        open_ = silent or content.get("state") == "released" or _dead(content)
        finished = content.get("state") == "finished"
        return State(number, open_, finished, int(content.get("done", 0)))

    def seconds(self, name: str) -> float:
        """How long it was held, by one after the other."""
        found = 0.0
        for path in (self.folder / name).glob("*"):
            with suppress(OSError, ValueError):
                found += json.loads(path.read_text(encoding="utf-8"))["seconds"]
        return found

    def take(self, name: str, done: int = 0) -> Lock | None:
        """Claim a name; None where somebody holds it, or was faster.

        Args:
            name: also a folder's.
            done: work done before.
        """
        state = self.state(name)
        return self._next(name, state.number, done) if state.open else None

    def reopen(self, name: str) -> None:
        """Let somebody take at once what was finished, as there is more to do."""
        if (claim := self._next(name, self.state(name).number, 0)) is not None:
            claim.release()

    def _next(self, name: str, number: int, done: int) -> Lock | None:
        path = self.folder / name / str(number + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.open("x").close()
        except FileExistsError:
            return None
        return Lock(path, self.beat, done)

    @contextmanager
    def hold(self, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for a name, and have it for the block.

        Args:
            name: as for :meth:`take`.
            waiting: called once where somebody else has it.
        """
        claim = self.take(name)
        if claim is None:
            waiting()
        while claim is None:
            time.sleep(0.2)
            claim = self.take(name)
        try:
            yield
        finally:
            claim.release()


class Lock:
    """A claim of this process; a thread keeps it alive.

    Args:
        path: its file.
        beat: seconds between signs of life.
        done: work done so far, for who watches.
    """

    def __init__(self, path: Path, beat: float, done: int = 0) -> None:
        self.path, self.done = path, done
        self.lost = False
        self._over = threading.Event()
        self._began = time.monotonic()
        self._next = path.with_name(str(int(path.name) + 1))
        self._write("held")
        self._thread = threading.Thread(target=self._live, args=(beat,), daemon=True)
        self._thread.start()

    def advance(self, units: int) -> None:
        """So much more is done."""
        self.done += units

    def release(self, *, finished: bool = False) -> None:
        """Give it up; what is finished stays closed for a lease, as others may see its results late."""
        self._over.set()
        self._thread.join()
        if not self.lost:
            self._write("finished" if finished else "released")

    def _live(self, beat: float) -> None:
        while not self._over.wait(beat):
            if self._next.exists():
                self.lost = True
                return
            self._write("held")

    def _write(self, state: str) -> None:
        content = {"state": state, "holder": f"{platform.node()}, process {os.getpid()}", "done": self.done}
        content |= {"machine": _machine(), "process": os.getpid(), "beat": time.monotonic_ns()}
        content["seconds"] = round(time.monotonic() - self._began, 1)
        with suppress(OSError):  # a full disk or a server away for a moment ends nothing
            self.path.write_text(json.dumps(content), encoding="utf-8")


def _machine() -> str:
    """Where process numbers mean what they mean here; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _dead(content: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    if content.get("state") != "held" or not content.get("machine") or content["machine"] != _machine():
        return False
    try:
        os.kill(content["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
