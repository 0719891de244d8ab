"""One process at a time trains in a folder; a second one is told so, instead of training everything once more.

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

from racecar.study.core.errors import StudyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Have a folder for the block.

    Raises:
        StudyError: another process has it.
    """
    if fcntl is None:
        yield
        return
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudyError(
                f"{_holder(folder)} is training in {folder}: wait for it, stop it, or choose another --out"
            ) from error
        except OSError:  # a file system without locks: as before there were any
            yield
            return
        file.truncate(0)
        json.dump({"process": os.getpid(), "machine": platform.node()}, file)
        file.flush()
        yield


def _holder(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return f"process {int(content['process'])} on {content['machine']}"
    return "another process"
