"""Runs of the study in its folder: stopped and continued, diverged, and the whole command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from racecar.study.classification.keeping import keep
from racecar.study.cli import main
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.images.decoded import Images
from racecar.study.plasticity import experiment, sequences
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.spec import DIVISION, SPEC

CONFIG = PlasticityConfig(
    variants=["Std", "RR1"], seeds=1, tasks=3, train_images=20, test_images=20, batch_size=10, epochs=2
)


def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(40) % 10, tuple(map(str, range(10))))


def opened(folder: Path, config: PlasticityConfig = CONFIG) -> Study:
    study = SPEC.open(folder, config)
    keep(study, images().take(torch.arange(20)), images())
    return study


def contents(study: Study, config: PlasticityConfig) -> list[dict[str, object]]:
    return [{k: v for k, v in (study.metrics(r) or {}).items() if k != "seconds_per_step"} for r in config.runs()]


def test_stopped_and_called_again_it_ends_with_the_same_numbers_and_weights(tmp_path) -> None:
    whole, broken = opened(tmp_path / "whole"), opened(tmp_path / "broken")
    assert experiment.run_share(whole, CONFIG, CONFIG.runs())
    calls = 0
    told = []

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls % 5 == 0

    while not experiment.run_share(broken, CONFIG, CONFIG.runs(), Callbacks(told.append, stop=stop)):
        all_of, done = DIVISION.work(broken, CONFIG, CONFIG.runs())
        assert done == sum(told) < all_of
    assert sum(told) == DIVISION.work(broken, CONFIG, CONFIG.runs())[0]
    assert calls > 20
    assert contents(whole, CONFIG) == contents(broken, CONFIG)
    for run in CONFIG.runs():
        assert all(torch.equal(whole.weights(run)[n], w) for n, w in broken.weights(run).items())
    assert not list(broken.folder.glob("progress-*"))


def test_tasks_that_a_diverged_chain_did_not_come_to_count_as_answered_by_chance(tmp_path) -> None:
    config = replace(CONFIG, learning_rate=1e30, variants=["Std"])
    study = opened(tmp_path / "s", config)
    assert experiment.run_share(study, config, config.runs())
    (found,) = contents(study, config)
    assert "not finite" in str(found["diverged"])
    assert (found["accuracy"], found["last_fifth"], found["history"]) == (pytest.approx(0.1), pytest.approx(0.1), [])


def test_the_command_trains_and_reports_and_says_where_images_come_from(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sequences, "train_and_validation", lambda where: (images(), images()))
    monkeypatch.chdir(tmp_path)
    argv = ["--train_images", "20", "--test_images", "20", "--batch_size", "10", "--tasks", "3", "--workers", "1"]
    assert main(["study", "plasticity", "--preset", "quick", "--sequence", "permuted-pixels", *argv]) == 0
    folder = tmp_path / "runs" / "plasticity-permuted-pixels-quick"
    assert len(list(folder.glob("runs/*/*/run.json"))) == 8
    assert (
        "20 training and 20 test images"
        in json.loads((folder / "study.json").read_text())["sources"]["permuted-pixels"]
    )
    assert "no conclusions" in (folder / "report.html").read_text()
    assert main(["study", "plasticity", "--preset", "quick", "--variants", "LS"]) == 2
    assert "no variant LS in this study" in capsys.readouterr().err
