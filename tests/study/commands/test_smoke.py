"""``racecar study smoke`` as a user calls it."""

import json
import os
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
from PIL import Image

from racecar.study.cli import main
from racecar.study.smoke import dataset
from racecar.study.smoke.simulation import Settings

SMALL = [
    *("--preset", "quick", "--width", "4", "--discriminator_width", "2", "--steps_a", "4", "--steps_b", "2"),
    *("--batch_size", "2", "--test_frames", "4", "--evaluations", "2", "--capture_factor", "1", "--workers", "1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset.open_folder(folder / "smoke", Settings(frames=4, size=16, warm_up=0), 2, 0)
    assert dataset.make((folder / "smoke", [0, 1]), lambda steps: None, lambda: False)
    (folder / "plume").mkdir()
    for number in range(6):
        array = np.random.default_rng(number).integers(0, 256, (24, 16), dtype=np.uint8)
        Image.fromarray(array).save(folder / "plume" / f"{number}.png")
    datasets.disable_progress_bars()
    return folder


def argv(data, out, *more: str) -> list[str]:
    return ["study", "smoke", *SMALL, "--simulations", str(data / "smoke"), "--out", str(out), *more]


def test_with_captures_all_of_table_6_without_them_b1_alone(data, tmp_path, capsys) -> None:
    assert main(argv(data, tmp_path / "s")) == 0
    runs = {p.parent.parent.name for p in (tmp_path / "s" / "runs").glob("*/*/run.json")}
    assert runs == {"Std_A", "RR6_A", "Std_AB1", "RR6_AB1", "Std_B1"}
    assert main(argv(data, tmp_path / "s", "--captures", str(data / "plume"))) == 0
    runs = {p.parent.parent.name for p in (tmp_path / "s" / "runs").glob("*/*/run.json")}
    assert {"Std_AB2", "RR6_AB2", "Std_B2"} < runs
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "6 pictures of real smoke from plume" in page
    metadata = json.loads((tmp_path / "s" / "study.json").read_text())
    assert metadata["setting"] == "quick preset"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--simulations", "nowhere"], "run `racecar data smoke --out nowhere` first"),
        (["--captures", "./nowhere"], "./nowhere does not exist"),
        (["--variants", "Ort"], "no variant Ort in this study"),
        (["--phases", "A", "AA"], "no phase 'AA' in this study"),
        (["--capture_factor", "9", "--captures", "{data}/plume"], "needs 36 or more"),
    ],
)
def test_bad_input_is_one_clear_line(data, tmp_path, capsys, more, said) -> None:
    assert main(argv(data, tmp_path / "s", *(m.format(data=data) for m in more))) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("racecar: ")
    assert "Traceback" not in error


@pytest.mark.slow
def test_killed_and_started_again_it_finishes_what_was_missing(data, tmp_path) -> None:
    command = [sys.executable, "-m", "racecar.study.cli", *argv(data, tmp_path / "s")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = tmp_path / "s" / "runs" / "Std_A" / "seed-0" / "run.json"
    deadline = time.monotonic() + 60
    while not any((tmp_path / "s").glob("runs/*/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("runs/*/*/run.json")}
    assert kept
    assert main(command[3:]) == 0
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert first.exists()
