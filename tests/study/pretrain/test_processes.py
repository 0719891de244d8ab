"""Killed at any moment, out of disk, or in two processes: the weights are those of one undisturbed process."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import HERE, environment, write_images


def forked(folder: Path, *words: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, str(HERE / "forked.py"), *words],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in folder.glob("*.txt"))
    assert result.returncode == 0, result.stderr + said
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "data")
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    return forked(place, "killed")


def test_killed_at_random_moments_it_ends_with_the_same_weights(found, place) -> None:
    codes = found["random"]["codes"]
    assert codes[-1] == 0
    assert codes.count(-signal.SIGKILL) >= 3, "most kills came too late"
    assert found["random"]["same"]
    assert not found["random"]["leftovers"]
    log = EventAccumulator(str(place / "a" / "tensorboard"))
    log.Reload()
    assert [e.step for e in log.Scalars("loss/cross-entropy")] == [3 * (i + 1) for i in range(16)]


def test_killed_while_a_file_is_half_written_it_ends_with_the_same_weights(found) -> None:
    assert found["writing"]["codes"] == [-signal.SIGKILL] * 2 + [0]
    assert all(found["writing"]["leftovers"]), "no kill came during a write"
    assert found["writing"]["same"]
    assert not found["writing"]["at_the_end"]


def test_a_full_disk_is_one_line_and_the_state_of_before_survives(found) -> None:
    full = found["full"]
    assert full["size"] > 10_000
    assert full["code"] == 2, full["errors"]
    assert full["unchanged"]
    (line,) = (s for s in full["errors"].splitlines() if s.startswith("racecar:"))
    for part in ("cannot write", "progress-run.safetensors", "What was there before is unchanged"):
        assert part in line
    assert "Traceback" not in full["errors"]
    assert full["last"] == 0
    assert full["same"]


def test_terminated_it_saves_and_says_how_to_go_on(found) -> None:
    assert found["interrupted"]["code"] == 130
    (line,) = (s for s in found["interrupted"]["errors"].splitlines() if s.startswith("racecar:"))
    assert "the same command goes on from here" in line
    assert found["interrupted"]["last"] == 0
    assert found["interrupted"]["same"]


def test_two_processes_do_what_one_does(place) -> None:
    found = forked(place, "processes")["processes"]
    said = "".join((place / f"rank{r}.txt").read_text()[-3000:] for r in range(2))
    assert found["codes"] == [0] * 4, said
    assert found["ranks"] == 0
    assert found["single"] < 1e-5
    assert found["moved"] > 1e-3, "the cases do not differ: the comparison says nothing"
    assert [p > 0 for p in found["penalties"]] == [True, False, True, True]
    assert found["trained"] < 1e-5
    assert found["lambdas"][0] == pytest.approx(found["lambdas"][1], rel=1e-4)
    assert found["processes"] == [1, 2]
    whole, resumed = found["history"]
    assert resumed == whole, "the sums of an epoch that was stopped are one process's"
    assert "validation accuracy" not in found["lines"]  # the main process alone speaks
