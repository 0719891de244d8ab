"""One process at a time trains in a folder, or makes a file; a second one is told so, instead of doing it once more.

The operating system holds the lock and gives it back when its holder ends, however that happens; a process that
outlives the command which has started it (a rank of a killed torchrun) still holds it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from racecar.study.core.errors import StudyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def sole_use(folder: Path, doing: str | None = None, name: str = NAME) -> Iterator[None]:
    """Have a folder for the block.

    Args:
        folder: which exists.
        doing: what the block does, for who comes second; None: training in the folder.
        name: of the lock, where it is not the whole folder that is used.

    Raises:
        StudyError: another process has it.
    """
    if fcntl is None:
        yield
        return
    path = folder / name
    with _opened(path, doing or f"training in {folder}") as file:
        try:
            json.dump({"process": os.getpid(), "machine": platform.node()}, file)
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who has opened it by then finds that it is gone


@contextmanager
def _opened(path: Path, doing: str) -> Iterator[TextIO]:
    """The file, locked, empty, and still the one of that name."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StudyError(
                    f"{_holder(path)} is {doing}: wait for it, stop it, or choose another --out"
                ) from error
            except OSError:  # a file system without locks: as it was before there were any
                yield file
                return
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                file.truncate(0)
                yield file
                return


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"process {int(content['process'])} on {content['machine']}"
    return "another process"
