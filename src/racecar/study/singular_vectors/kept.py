"""What finished networks have measured, in OUT/measured.json: the same command goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_number, is_object, read_object, write_json
from racecar.study.singular_vectors.data import Case


@dataclass(frozen=True)
class Measured:
    """One network after training.

    Attributes:
        angle: mean principal angle, in degrees, between the directions and the first layer's singular vectors.
        accuracy: on the data.
    """

    angle: float
    accuracy: float


class Kept:
    """Measured networks by name, written anew after each.

    Args:
        out: folder; is made where there is none.
        cases: whose data the networks are trained on.
        steps: of each training.

    Raises:
        StudyError: the folder holds networks of other data or steps, or something damaged.
    """

    def __init__(self, out: Path, cases: Sequence[Case], steps: int) -> None:
        self.path = out / "measured.json"
        data = {case.title: float(case.inputs.double().sum()) for case in cases}
        if not self.path.exists():
            self._content: dict[str, Any] = {"steps": steps, "data": data, "networks": {}}
            return
        wanted = {"steps": is_number, "data": is_object, "networks": is_object}
        self._content = read_object(self.path, "measured networks", wanted)
        known = self._content["data"]
        if self._content["steps"] != steps or any(known.get(title, total) != total for title, total in data.items()):
            raise StudyError(f"{out} holds networks of other steps or data: choose another --out")
        self._content["data"] = known | data

    def get(self, name: str) -> Measured | None:
        """Of a finished network; None: it is not finished.

        Raises:
            StudyError: what the file says of it is not what it was.
        """
        found = self._content["networks"].get(name)
        if found is None:
            return None
        if not (isinstance(found, list) and len(found) == 2 and all(map(is_number, found))):
            raise StudyError(f"{self.path}: {name} is {found!r}, no angle and accuracy: delete it to train it again")
        return Measured(*found)

    def add(self, name: str, measured: Measured) -> None:
        """Keep what a network has measured.

        Raises:
            StudyError: the disk refuses; what was kept before is still there.
        """
        self._content["networks"][name] = astuple(measured)
        write_json(self.path, self._content)
