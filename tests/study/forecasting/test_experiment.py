"""The command: resumed to the same numbers, refused for something else, and its table."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from racecar.study.core.files import write_tensors
from racecar.study.forecasting import experiment
from racecar.study.forecasting.config import QUICK
from racecar.study.smoke import dataset
from racecar.study.smoke.simulation import Settings

SETTINGS = Settings(frames=7, size=16)
CONFIG = replace(QUICK, variants=("Std", "RR1"))


@pytest.fixture(scope="module")
def simulations(tmp_path_factory):
    """Six simulations of noise that grows, in the form of `racecar data smoke`."""
    folder = tmp_path_factory.mktemp("data") / "smoke"
    dataset.open_folder(folder, SETTINGS, 6, 0)
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        density = torch.rand(7, 1, 16, 16, generator=generator).cumsum(0) / 7
        write_tensors(folder / f"simulation-{number:03d}.safetensors", {"density": density.half()})
    return folder


@pytest.fixture(scope="module")
def whole(simulations, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    experiment.open_folder(out, CONFIG, simulations)
    results = experiment.run(simulations, out, CONFIG, 1, lambda: False)
    assert results is not None
    return out, results


def numbers(folder):
    """What was measured, by file; seconds left out."""
    found = {p.name: json.loads(p.read_text()) for p in folder.glob("*seed*.json")}
    return {name: {k: v for k, v in content.items() if k != "seconds"} for name, content in found.items()}


def test_a_network_for_every_value_and_seed(whole) -> None:
    out, results = whole
    tuning = {f"tuning-RR1-{v}-seed-0.json" for v in ("0.1", "10")}
    value = f"{results.values['RR1']:g}"
    kinds = ("B-0", "B-1", "Std-0", f"RR1-{value}")
    assert numbers(out).keys() == tuning | {f"{k}-seed-{s}.json" for k in kinds for s in (0, 1)}
    tried = {v: numbers(out)[f"tuning-RR1-{v}-seed-0.json"]["AB"] for v in ("0.1", "10")}
    assert tried[value] == min(tried.values())


def test_what_was_stopped_goes_on_to_the_same_numbers_and_what_is_finished_stays(simulations, tmp_path) -> None:
    config, whole, out = replace(QUICK, variants=("Std", "Ort")), tmp_path / "whole", tmp_path / "stopped"
    assert experiment.run(simulations, whole, config, 1, lambda: False) is not None
    for last in (2, 7, 20):  # steps: within the first network, within the second, among the decisive ones
        asked = iter(range(10_000))
        assert experiment.run(simulations, out, config, 1, lambda a=asked, n=last: next(a) >= n) is None
    kept = {p: p.stat().st_mtime_ns for p in out.glob("*seed*.json")}
    assert 2 < len(kept) < len(numbers(whole))
    assert experiment.run(simulations, out, config, 1, lambda: False) is not None
    assert numbers(out) == numbers(whole)
    assert all(p.stat().st_mtime_ns == at for p, at in kept.items())


def test_a_network_that_diverges_is_said_and_left_out(simulations, whole, tmp_path, monkeypatch) -> None:
    def train(*given):
        raise experiment.DivergedError("the loss is nan")

    out = shutil.copytree(whole[0], tmp_path / "o")
    (out / "Std-0-seed-1.json").unlink()
    monkeypatch.setattr(experiment, "train", train)
    results = experiment.run(simulations, out, CONFIG, 1, lambda: False)
    assert results is not None
    std = next(v for v in results.variants if v.name == "Std")
    assert results.by_seed(std, 0.0, "AB").keys() == {0}
    assert {v.outcome for v in results.verdicts()} == {"not run"}
    settings = experiment.open_folder(out, CONFIG, simulations)
    assert "left out: Std-0-seed-1 (the loss is nan)" in experiment.text(results, settings, "c", None)


def test_the_command_writes_table_and_figure(simulations, whole, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole[0], "o")
    given = ["--quick", "--variants", "Std", "rr^1", "--simulations", str(simulations), "--out", "o", "--workers", "1"]
    given += ["--table", "r/t.md"]
    assert experiment.main(given) == 0
    text = (tmp_path / "r" / "t.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert (
        "`python -m racecar.study.forecasting.experiment --quick --variants Std rr^1 --simulations SIMULATIONS" in text
    )
    assert "A smoke test: no conclusions." in text
    assert "| persistence | — | — | 1.000 | 1.000 | 1.000 | — |" in text
    assert "(t.png)" in text
    assert (tmp_path / "r" / "t.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert settings["config"] == asdict(CONFIG) | {"variants": ["Std", "RR1"]}
    assert experiment.main([*given, "--seeds", "3"]) == 2
    assert "other settings or simulations: choose another --out" in capsys.readouterr().err
    assert experiment.main([*given, "--out", "p", "--variants", "LS"]) == 2
    assert "no variant LS in this study" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
