"""A study on disk: configuration, environment, one folder per finished run, and what an interrupted one has reached.

    OUT/study.json                    configuration, command, environment
    OUT/runs/RR6_AB/seed-3/           model.safetensors (the plain model), run.json (metrics)
    OUT/progress-*.safetensors        state of the runs in training, replaced at every save
    OUT/report.html

Every file is written under a temporary name and renamed, so a killed process leaves the old file or the new one.
Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from racecar.study.protocol import Run


class StudyError(Exception):
    """Something about a study's folder or arguments is wrong; the message is for the user."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises:
        StudyError: the folder or the disk refuses; the old file is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode is for one's eyes only
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StudyError(f"cannot write {path}: {error}. What was there before is unchanged.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed process has left half-written: :func:`write_atomically`'s or safetensors' own."""
    return re.fullmatch(r"\..+\.(json|safetensors|html)\.\w{8}|\.tmp\w{6}", path.name) is not None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StudyError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {error}. Delete it to redo what it held.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors atomically."""
    content = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, lambda p: save_file(content, p, dict(metadata or {})))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        StudyError: missing, truncated or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StudyError(f"{path} cannot be read: {error}. Delete it to redo what it held.") from error


def environment() -> dict[str, str]:
    """Hardware and versions, for the report."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "processor": _processor()}
    found["threads"] = str(torch.get_num_threads())
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    for package in ("torch", "numpy", "accelerate", "datasets", "racecar-training"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["revision"] = _revision()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _revision() -> str:
    """The code's git revision, with ``+`` if files were changed."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")


def _command() -> str:
    return " ".join(["racecar", *sys.argv[1:]])


@dataclass(frozen=True)
class Progress:
    """State of runs in training.

    Attributes:
        tensors: anything the experiment needs to go on, by name.
        about: anything else that is JSON.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def write_progress(path: Path, progress: Progress) -> None:
    """Replace a saved state."""
    write_tensors(path, progress.tensors, {"about": json.dumps(progress.about)})


def read_progress(path: Path) -> Progress | None:
    """A saved state; None where it is missing or damaged: what it was about starts again."""
    try:
        tensors = read_tensors(path)
        with safe_open(path, "pt") as file:
            return Progress(tensors, json.loads(file.metadata()["about"]))
    except (StudyError, KeyError, TypeError, ValueError, SafetensorError):
        return None


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
        config = json.loads(json.dumps(config))
        path = folder / "study.json"
        if path.exists():
            known = read_json(path)
            if known.get("experiment") != name:
                raise StudyError(f"{folder} holds the study {known.get('experiment')!r}: choose another --out")
            check_same(folder, known["config"], config)
        else:
            if folder.exists() and not all(is_leftover(p) for p in folder.iterdir()):
                raise StudyError(f"{folder} is not empty and holds no study: choose another --out")
            write_json(
                path,
                {
                    "experiment": name,
                    "config": config,
                    "command": _command(),
                    "started": datetime.now(UTC).isoformat(timespec="seconds"),
                    "environment": environment(),
                    "seconds": 0.0,
                },
            )

    def about(self) -> dict[str, Any]:
        """The content of study.json."""
        return read_json(self.folder / "study.json")

    def note(self, **content: Any) -> None:
        """Keep something about the study beside its configuration."""
        about = self.about()
        if any(about.get(k) != v for k, v in content.items()):
            write_json(self.folder / "study.json", about | content)

    def add_command(self) -> None:
        """Note this call, and the code's revision, beside those that have filled the folder before."""
        about = self.about()
        known = about["command"].split(" && ")
        revisions = about.get("revisions") or [about["environment"]["revision"]]
        self.note(
            command=" && ".join(dict.fromkeys([*known, _command()])),
            revisions=list(dict.fromkeys([*revisions, _revision()])),
        )

    def add_seconds(self, seconds: float) -> None:
        """Add to the wall-clock time that was spent on training, over all sessions."""
        self.note(seconds=round(self.about()["seconds"] + seconds, 1))

    def path(self, run: Run) -> Path:
        """The run's folder."""
        return self.folder / "runs" / run.key

    def finished(self, run: Run) -> bool:
        """Whether the run is done: run.json is written last."""
        return (self.path(run) / "run.json").exists()

    def finish(self, run: Run, model: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Keep a run's weights and metrics."""
        write_tensors(self.path(run) / "model.safetensors", model, {"model": run.model, "seed": str(run.seed)})
        write_json(self.path(run) / "run.json", {"model": run.model, "seed": run.seed, **metrics})

    def metrics(self, run: Run) -> dict[str, Any] | None:
        """The metrics of a finished run, else None."""
        return read_json(self.path(run) / "run.json") if self.finished(run) else None

    def weights(self, run: Run) -> dict[str, Tensor]:
        """The weights of a finished run."""
        return read_tensors(self.path(run) / "model.safetensors")

    def save_progress(self, slot: str, progress: Progress) -> None:
        """Replace the saved state of the runs that one process trains; ``slot`` names the process's share."""
        write_progress(self.folder / f"progress-{slot}.safetensors", progress)

    def progress_notes(self) -> list[dict[str, Any]]:
        """What all saved states are about, without their tensors."""
        found = []
        for path in sorted(self.folder.glob("progress-*.safetensors")):
            # A damaged one counts as none, and another process may just have finished its run.
            with suppress(OSError, KeyError, TypeError, ValueError, SafetensorError), safe_open(path, "pt") as file:
                found.append(json.loads(file.metadata()["about"]))
        return found

    def load_progress(self) -> list[Progress]:
        """All saved states; a damaged one counts as none (its runs start again)."""
        found = [read_progress(path) for path in sorted(self.folder.glob("progress-*.safetensors"))]
        return [p for p in found if p is not None]

    def take_data(self, other: Study) -> None:
        """Have the data that another study of the same settings has kept, without a second copy where links work."""
        for path in other.folder.glob("data-*.safetensors"):
            if not (here := self.folder / path.name).exists():
                try:
                    here.hardlink_to(path)
                except OSError:
                    write_atomically(here, lambda temporary, path=path: shutil.copyfile(path, temporary))  # type: ignore[misc]
        if "sources" in (about := other.about()):
            self.note(sources=about["sources"])

    def sweep(self) -> None:
        """Remove what killed processes have left half-written. Only while no other process writes here."""
        for path in self.folder.rglob(".*"):
            if is_leftover(path):
                path.unlink(missing_ok=True)

    def drop_progress(self, slot: str) -> None:
        """Forget a saved state: its runs are finished."""
        (self.folder / f"progress-{slot}.safetensors").unlink(missing_ok=True)
