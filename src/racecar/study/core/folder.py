"""A study on disk: configuration, environment, one folder per finished run, and what an interrupted one has reached.

    OUT/study.json                    configuration, command, environment
    OUT/runs/RR6_AB/seed-3/           model.safetensors (the plain model), run.json (metrics)
    OUT/progress-*.safetensors        state of the runs in training, replaced at every save
    OUT/report.html

Every file is written under a temporary name and renamed, so a killed process leaves the old file or the new one.
Nothing is unpickled.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from racecar.study.core.checkpoints import Progress, about, read_progress, write_progress
from racecar.study.core.environment import command_line, environment, revision
from racecar.study.core.errors import StudyError
from racecar.study.core.files import (
    are_labels,
    are_texts,
    is_count,
    is_empty,
    is_leftover,
    is_number,
    is_object,
    is_text,
    read_object,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from racecar.study.core.variants import Run


def _nothing() -> None:
    pass


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def check_same(folder: Path, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a folder that was filled with other settings.

    Args:
        folder: to name it.
        known, now: settings there, and those asked for; nested ones are named with dots.

    Raises:
        StudyError: naming every difference.
    """
    if known != now:
        there, here = _flat(known), _flat(now)
        differing = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))
        changes = ", ".join(f"{k}: {there.get(k)} there, {here.get(k)} now" for k in differing)
        raise StudyError(f"{folder} holds runs of another configuration ({changes}): choose another --out")


def read_description(path: Path) -> dict[str, Any]:
    """The content of a study.json.

    Raises:
        StudyError: missing, damaged, or of something else.
    """
    wanted = {"experiment": is_text, "config": is_object, "command": is_text, "environment": are_labels}
    also = {
        "variants": are_texts,
        "phases": are_texts,
        "seeds": is_count,
        "revisions": are_texts,
        "sources": are_labels,
        "tuned": is_object,
    }
    content: dict[str, Any] = read_object(path, "a study", wanted | {"seconds": is_number}, also | {"setting": is_text})
    return content


class Metrics(dict[str, Any]):
    """What a run.json says; a metric that it lacks is an error of the file's.

    Args:
        path: of the file.
        content: its object.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise StudyError(f"{self.path} holds no {name}: {_AGAIN}")


_AGAIN = "delete it, and the study's command trains the run again"


class Study:
    """A study's folder.

    Args:
        folder: created if needed.
        name: the experiment, e.g. ``"mutual-information"``.
        config: what defines the runs; a folder holds runs of one configuration.

    Raises:
        StudyError: the folder belongs to another experiment or configuration, or cannot be written.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self._check: Callable[[], None] = _nothing
        config = json.loads(json.dumps(config))
        path = folder / "study.json"
        if path.exists():
            known = read_description(path)
            if known["experiment"] != name:
                raise StudyError(f"{folder} holds the study {known.get('experiment')!r}: choose another --out")
            check_same(folder, known["config"], config)
        else:
            if folder.exists() and not is_empty(folder):
                raise StudyError(f"{folder} is not empty and holds no study: choose another --out")
            write_json(
                path,
                {
                    "experiment": name,
                    "config": config,
                    "command": command_line(),
                    "started": datetime.now(UTC).isoformat(timespec="seconds"),
                    "environment": environment(),
                    "seconds": 0.0,
                },
            )

    def guarded(self, check: Callable[[], None]) -> Study:
        """The same folder, with a question before every write of a run's: who has lost the run raises there.

        Args:
            check: see :func:`racecar.study.core.files.write_atomically`.
        """
        study = copy.copy(self)
        study._check = check
        return study

    def metadata(self) -> dict[str, Any]:
        """The content of study.json: configuration, command, environment, and what was noted beside them."""
        return read_description(self.folder / "study.json")

    def note(self, **content: Any) -> None:
        """Keep something about the study beside its configuration."""
        metadata = self.metadata()
        if any(metadata.get(k) != v for k, v in content.items()):
            write_json(self.folder / "study.json", metadata | content)

    def add_command(self) -> None:
        """Note this call, and the code's revision, beside those that have filled the folder before."""
        metadata = self.metadata()
        known = metadata["command"].split(" && ")
        revisions = metadata.get("revisions") or [metadata["environment"].get("revision", "unknown")]
        self.note(
            command=" && ".join(dict.fromkeys([*known, command_line()])),
            revisions=list(dict.fromkeys([*revisions, revision()])),
        )

    def add_seconds(self, seconds: float) -> None:
        """Add to the wall-clock time that was spent on training, over all sessions."""
        self.note(seconds=round(self.metadata()["seconds"] + seconds, 1))

    def path(self, run: Run) -> Path:
        """The run's folder."""
        return self.folder / "runs" / run.key

    def finished(self, run: Run) -> bool:
        """Whether the run is done: run.json is written last."""
        return (self.path(run) / "run.json").exists()

    def finish(self, run: Run, model: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Keep a run's weights and metrics."""
        self.keep(run, "model", model, {"model": run.model, "seed": str(run.seed)})
        self.conclude(run, metrics)

    def keep(
        self, run: Run, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Keep tensors of a run under a name, before it is finished."""
        write_tensors(self.path(run) / f"{name}.safetensors", tensors, metadata, self._check)

    def conclude(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """Keep the metrics of a run, which is finished by that."""
        write_json(self.path(run) / "run.json", {"model": run.model, "seed": run.seed, **metrics}, self._check)

    def metrics(self, run: Run) -> dict[str, Any] | None:
        """The metrics of a finished run, else None.

        Raises:
            StudyError: they cannot be read; asked for one that is not there, they say so too.
        """
        path = self.path(run) / "run.json"
        if not self.finished(run):
            return None
        known = {"accuracy": is_number, "history": lambda value: isinstance(value, list) and all(map(is_object, value))}
        return Metrics(path, read_object(path, "a run", {}, known, _AGAIN))

    def weights(self, run: Run) -> dict[str, Tensor]:
        """The weights of a finished run.

        Raises:
            StudyError: they are damaged, or gone.
        """
        path = self.path(run) / "model.safetensors"
        if not path.exists():
            raise StudyError(
                f"{path} does not exist: copy it back, or delete run.json beside it, and the study's command trains "
                "the run again"
            )
        return read_tensors(path)

    def save_progress(self, slot: str, progress: Progress) -> None:
        """Replace the saved state of the runs that one process trains; ``slot`` names the process's share."""
        write_progress(self.folder / f"progress-{slot}.safetensors", progress, self._check)

    def progress_notes(self) -> list[dict[str, Any]]:
        """What all saved states are about, without their tensors."""
        found = []
        for path in sorted(self.folder.glob("progress-*.safetensors")):
            # A damaged one counts as none, and another process may just have finished its run.
            wrong = (OSError, LookupError, RecursionError, TypeError, ValueError, SafetensorError)
            with suppress(*wrong), safe_open(path, "pt") as file:
                found.append(about(file.metadata() or {}))
        return found

    def load_progress(self) -> list[Progress]:
        """All saved states; a damaged one counts as none (its runs start again)."""
        found = [read_progress(path) for path in sorted(self.folder.glob("progress-*.safetensors"))]
        return [p for p in found if p is not None]

    def read_progress(self, slot: str) -> Progress | None:
        """The state saved for a slot; None where there is none, or a damaged one."""
        return read_progress(self.folder / f"progress-{slot}.safetensors")

    def take_data(self, other: Study) -> None:
        """Have the data that another study of the same settings has kept, without a second copy where links work."""
        for path in other.folder.glob("data-*.safetensors"):
            if not (here := self.folder / path.name).exists():
                try:
                    here.hardlink_to(path)
                except OSError:
                    write_atomically(here, lambda temporary, path=path: shutil.copyfile(path, temporary))  # type: ignore[misc]
        if "sources" in (metadata := other.metadata()):
            self.note(sources=metadata["sources"])

    def remove_leftovers(self) -> None:
        """Remove what killed processes have left half-written. Only while no other process writes here."""
        for path in self.folder.rglob(".*"):
            if is_leftover(path):
                path.unlink(missing_ok=True)

    def drop_progress(self, slot: str) -> None:
        """Forget a saved state: its runs are finished."""
        self._check()
        (self.folder / f"progress-{slot}.safetensors").unlink(missing_ok=True)
