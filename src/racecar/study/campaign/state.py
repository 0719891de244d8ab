"""What a campaign's folder knows of its items: one file, rewritten whole whenever something begins or ends.

WORK/campaign.json     the device, and what became of every item that was begun
WORK/NAME.log          what an item's commands have said, this call's and earlier ones'
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from racecar.study.campaign.items import Item
from racecar.study.core.ceilings import Ceilings
from racecar.study.core.environment import pasted
from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_object, read_object, write_json

RUNNING, DONE, FAILED, CUT = "running", "done", "failed", "cut off"


@dataclass
class Record:
    """What became of an item.

    Attributes:
        command: its commands, as they can be pasted.
        status: ``running`` (killed, if nobody runs it), ``done``, ``failed`` or ``cut off``.
        seconds: spent on it so far, all calls together.
        estimate: of the first call.
        files: that it wrote in the folder of results.
        about: versions and revision.
        error: its last line, where it failed.
        process: number of the command that runs.
    """

    command: str
    status: str = RUNNING
    seconds: float = 0.0
    estimate: float = 0.0
    files: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    error: str = ""
    process: int = 0


class State:
    """The file of one folder.

    Args:
        work: the campaign's folder.

    Raises:
        StudyError: the file is damaged.
    """

    def __init__(self, work: Path) -> None:
        self.path = work / "campaign.json"
        self.device: dict[str, float | str] = {}
        self.records: dict[str, Record] = {}
        if self.path.exists():
            remedy = "delete it, and every item is run again"
            content = read_object(self.path, "a campaign", {"device": is_object, "items": is_object}, remedy=remedy)
            self.device = content["device"]
            try:
                self.records = {name: Record(**record) for name, record in content["items"].items()}
            except TypeError as error:
                raise StudyError(f"{self.path} does not describe a campaign ({error}): {remedy}") from error

    def save(self) -> None:
        """Write it."""
        items = {name: dataclasses.asdict(record) for name, record in self.records.items()}
        write_json(self.path, {"device": self.device, "items": items})

    def remember(self, on: Ceilings) -> None:
        """Keep what was measured of the device."""
        self.device = dataclasses.asdict(on)

    def of(self, item: Item) -> Record | None:
        """What became of it; None where it was not begun, or its commands were others."""
        record = self.records.get(item.name)
        return record if record is not None and record.command == words(item) else None

    def done(self, item: Item) -> bool:
        """Whether it is finished and what it wrote is still there."""
        record = self.of(item)
        return record is not None and record.status == DONE and item.table.exists()

    def wait_for_orphans(self, seconds: float = 60.0) -> None:
        """What a killed campaign has started keeps its state and ends by itself: let it."""
        end = time.monotonic() + seconds
        for record in self.records.values():
            while record.status == RUNNING and record.process and time.monotonic() < end and _alive(record.process):
                time.sleep(0.1)


def words(item: Item) -> str:
    """Its commands as one line that can be pasted."""
    return " && ".join(pasted(command) for command in item.commands)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, which has the number now
        return False
    return True


def written(folder: Path) -> dict[str, int]:
    """The files of a folder, and when they were written."""
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("*")) if p.is_file()}


def new(before: dict[str, int], after: dict[str, int]) -> Sequence[str]:
    """Names that are there, or were written again, since."""
    return [name for name, when in after.items() if before.get(name) != when]
