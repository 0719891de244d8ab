"""The simulated set in a folder: one file per simulation, made once, checked when made, resumed where it stopped.

FOLDER/smoke.json                     settings, seed, number of simulations, versions
FOLDER/simulation-003.safetensors     density [frames, 1, size, size] in float16: its steps of 0.0005 are finer than
                                      8 bits at half of float32's size; divergence, mass and gain per frame
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from racecar.study.core.environment import environment
from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_count, is_empty, read_object, read_tensors, write_json, write_tensors
from racecar.study.core.growing import from_json
from racecar.study.core.processes import Advance, Stop
from racecar.study.smoke.simulation import Settings, simulate


@dataclass(frozen=True)
class Simulations:
    """A set of simulations.

    Attributes:
        density: [simulations, frames, 1, size, size], float32, 0 to 1; row 0 is the top.
        metadata: the content of smoke.json.
    """

    density: Tensor
    metadata: dict[str, Any]


def open_folder(folder: Path, settings: Settings, count: int, seed: int) -> None:
    """Begin a set, or go on with one of the same settings and seed; more simulations may be asked for later.

    Raises:
        StudyError: the folder holds something else.
    """
    wanted = {"settings": asdict(settings), "seed": seed}
    path = folder / "smoke.json"
    if path.exists():
        metadata = description(folder)
        known = {k: metadata.get(k) for k in wanted}
        if known != wanted:
            raise StudyError(
                f"{folder} holds simulations of other settings ({known} there, {wanted} now): another --out"
            )
        if metadata["count"] >= count:
            return
        write_json(path, metadata | {"count": count})
        return
    if folder.exists() and not is_empty(folder):
        raise StudyError(f"{folder} is not empty and holds no simulations: choose another --out")
    write_json(path, wanted | {"count": count, "phiflow": version("phiflow"), "environment": environment()})


def description(folder: Path) -> dict[str, Any]:
    """What smoke.json says: settings, seed and count.

    Raises:
        StudyError: no simulations there, or the file is of something else.
    """

    def are_settings(value: object) -> bool:
        try:
            return isinstance(value, dict) and bool(from_json(Settings, value))
        except (TypeError, ValueError):
            return False

    wanted = {"settings": are_settings, "seed": lambda value: type(value) is int, "count": is_count}
    content: dict[str, Any] = read_object(folder / "smoke.json", "simulations", wanted)
    return content


def missing(folder: Path) -> list[int]:
    """Numbers of the simulations that are not made yet."""
    return [i for i in range(description(folder)["count"]) if not _file(folder, i).exists()]


def make(share: tuple[Path, Sequence[int]], advance: Advance, stop: Stop) -> bool:
    """Make some simulations of a folder; for :func:`racecar.study.core.processes.run_shares`.

    Args:
        share: the folder and the simulations' numbers.
        advance: told of time steps done.
        stop: asked before every simulation.

    Returns:
        Whether all are made.
    """
    folder, numbers = share
    metadata = description(folder)
    for number in numbers:
        if stop():
            return False
        found = simulate(Settings(**metadata["settings"]), metadata["seed"] * 1_000_003 + number, advance)
        tensors = {
            "density": found.density.half(),
            "divergence": found.divergence,
            "mass": found.mass,
            "gain": found.gain,
        }
        write_tensors(_file(folder, number), tensors)
    return True


def load(folder: Path) -> Simulations:
    """Read a whole set.

    Raises:
        StudyError: not there, incomplete, or damaged, and the command that mends it.
    """
    command = f"racecar data smoke --out {folder}"
    if not (folder / "smoke.json").exists():
        raise StudyError(f"{folder} holds no simulations: run `{command}` first")
    metadata = description(folder)
    if left := missing(folder):
        raise StudyError(f"{folder} lacks {len(left)} of {metadata['count']} simulations: run `{command}` again")
    size, frames = metadata["settings"]["size"], metadata["settings"]["frames"]
    density = []
    for number in range(metadata["count"]):
        found = read_tensors(_file(folder, number)).get("density")
        if found is None or found.shape != (frames, 1, size, size):
            raise StudyError(f"{_file(folder, number)} is not a simulation of this set: delete it and run `{command}`")
        density.append(found.float())
    return Simulations(torch.stack(density), metadata)


def checks(folder: Path) -> dict[str, float]:
    """The worst of all frames: ``divergence`` per time step, ``gain`` of mass by advection; mean ``density``."""
    found = [read_tensors(_file(folder, i)) for i in range(description(folder)["count"])]
    return {
        "divergence": max(float(f["divergence"].max()) for f in found),
        "gain": max(float(f["gain"].max()) for f in found),
        "density": sum(float(f["density"].float().mean()) for f in found) / len(found),
    }


def _file(folder: Path, number: int) -> Path:
    return folder / f"simulation-{number:03d}.safetensors"
