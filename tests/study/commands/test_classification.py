"""``racecar study digits`` as a user runs it on parquet files: killed, resumed, reported, misused."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from racecar.study.cli import main

TINY = [
    *["--preset", "quick", "--variants", "Std", "RR3", "--phases", "A", "AB", "--seeds", "1", "--workers", "1"],
    *["--train_images", "200", "--test_images", "50", "--width", "4", "--a.batch_size", "10"],
]


def digits(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "racecar.study.cli", "study", "digits", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HOME": str(cwd / "hf"), "HF_HUB_OFFLINE": "1"},
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Squares of ten sizes under MNIST's column names."""
    root = tmp_path_factory.mktemp("data")
    (root / "mnist").mkdir()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(i) for i in range(10)])}
    )
    rng = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 60)):
        rows = []
        for i in range(count):
            pixels = rng.integers(0, 60, (28, 28), dtype=np.uint8)
            pixels[: 2 + 2 * (i % 10), : 2 + 2 * (i % 10)] += 150
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": rows, "label": [i % 10 for i in range(count)]}, features=features)
        table.to_parquet(str(root / "mnist" / f"{split}-00000.parquet"))
    return root


def here(folder: Path, *arguments: str) -> str:
    """The command in this process, which starts sooner; what it says."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf" / "datasets")
        assert main(["study", "digits", *arguments]) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def done(data) -> Path:
    assert "report: whole/report.html" in here(data, "--data", str(data), "--out", "whole", *TINY)
    return data


def weights(folder: Path) -> dict[str, dict]:
    return {str(p.relative_to(folder)): load_file(p) for p in sorted(folder.glob("runs/*/*/model.safetensors"))}


def test_the_report_says_where_the_data_came_from_and_what_was_not_run(done) -> None:
    html = (done / "whole" / "report.html").read_text()
    for expected in (
        "n-MNIST made from MNIST",
        "RR<sup>3</sup><sub>AB</sub>",
        "0.9611 ± 0.0044",
        "not run",
        "undecided",
    ):
        assert expected in html, expected
    assert "http://" not in html.replace("http://www.w3.org", "")
    run = json.loads((done / "whole" / "runs" / "RR3_A" / "seed-0" / "run.json").read_text())
    assert run["train_images"] == 200
    assert run["epochs"] == len(run["history"]) == 2


def test_killed_twice_it_ends_with_the_weights_of_an_undisturbed_run(done) -> None:
    for wanted in ("RR3_A", "Std_AB"):
        process = digits("--data", str(done), "--out", "killed", *TINY, cwd=done)
        limit = time.monotonic() + 120
        # Killed while a saved state or a finished run appears.
        while not list((done / "killed").glob(f"runs/{wanted}/*/model.safetensors")) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        ended(process)
    here(done, "--data", str(done), "--out", "killed", *TINY)
    expected, found = weights(done / "whole"), weights(done / "killed")
    assert expected.keys() == found.keys()
    for run, tensors in expected.items():
        for name, value in tensors.items():
            assert value.equal(found[run][name]), (run, name)


def test_interrupted_it_saves_says_so_and_goes_on(done) -> None:
    process = digits("--data", str(done), "--out", "stopped", *TINY, cwd=done)
    limit = time.monotonic() + 120
    while not (done / "stopped" / "data-B-test.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, "stopped; what is done is kept" in err) in ((130, True), (0, False)), err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "nowhere/mnist"),
        (["--variants", "Best"], "no variant 'Best'"),
        (["--variants", "Std", "RR4"], "RR4: the network of this study has 3 layers"),
        (["--nmnist", "missing.mat", "--data", "."], "missing.mat does not exist"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--a.epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(done, tmp_path, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert main(["study", "digits", "--preset", "quick", "--out", "bad", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_under_a_launcher_it_refuses_instead_of_training_twice_into_one_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["study", "digits", "--preset", "quick", "--out", "launched"]) == 2
    assert "--workers" in capsys.readouterr().err
    assert not Path("launched").exists()
