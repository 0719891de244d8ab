"""The simulated set in a folder: resumed, extended, refused, read."""

import dataclasses

import pytest
import torch

from racecar.study.cli import main
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_tensors
from racecar.study.core.sole import sole_use
from racecar.study.smoke import dataset
from racecar.study.smoke.simulation import Settings, simulate

SETTINGS = Settings(frames=2, size=16, warm_up=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "smoke"
    dataset.open_folder(folder, SETTINGS, 2, 5)
    assert dataset.make((folder, dataset.missing(folder)), lambda steps: None, lambda: False)
    return folder


def test_what_is_read_is_what_was_simulated(made) -> None:
    found = dataset.load(made)
    assert found.density.shape == (2, 2, 1, 16, 16)
    alone = simulate(SETTINGS, 5 * 1_000_003 + 1).density
    assert torch.allclose(found.density[1], alone, atol=1e-3)
    assert found.metadata["settings"] == dataclasses.asdict(SETTINGS)
    worst = dataset.checks(made)
    assert worst["divergence"] < 0.01
    assert worst["density"] == pytest.approx(float(found.density.mean()), rel=1e-4)


def test_what_was_stopped_goes_on_and_what_is_made_stays(tmp_path) -> None:
    folder = tmp_path / "s"
    dataset.open_folder(folder, SETTINGS, 2, 0)
    stops = iter([False, True])
    assert not dataset.make((folder, dataset.missing(folder)), lambda steps: None, lambda: next(stops))
    first = (folder / "simulation-000.safetensors").stat().st_mtime_ns
    assert dataset.missing(folder) == [1]
    with pytest.raises(StudyError, match=r"lacks 1 of 2 simulations: run `racecar data smoke --out .*` again"):
        dataset.load(folder)
    assert dataset.make((folder, dataset.missing(folder)), lambda steps: None, lambda: False)
    assert (folder / "simulation-000.safetensors").stat().st_mtime_ns == first
    assert len(dataset.load(folder).density) == 2


def test_more_may_be_added_but_nothing_else_changed(made) -> None:
    dataset.open_folder(made, SETTINGS, 1, 5)
    assert dataset.missing(made) == []  # fewer asked for: nothing is taken away
    with pytest.raises(StudyError, match="holds simulations of other settings"):
        dataset.open_folder(made, dataclasses.replace(SETTINGS, frames=3), 2, 5)
    with pytest.raises(StudyError, match="another --out"):
        dataset.open_folder(made, SETTINGS, 2, 6)


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StudyError, match="is not empty and holds no simulations"):
        dataset.open_folder(tmp_path, SETTINGS, 1, 0)
    with pytest.raises(StudyError, match=r"run `racecar data smoke --out .*` first"):
        dataset.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"settings": {"size": "x"}, "seed": 0, "count": 1}', "{", ""])
def test_a_description_of_something_else_is_one_line(tmp_path, content) -> None:
    (tmp_path / "smoke.json").write_text(content, encoding="utf-8")
    for call in (dataset.load, dataset.missing, lambda folder: dataset.open_folder(folder, SETTINGS, 1, 0)):
        with pytest.raises(StudyError, match=r"smoke\.json (does not describe simulations|cannot be read)"):
            call(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "of another size"])
def test_a_damaged_simulation_is_named(tmp_path, damage) -> None:
    folder = tmp_path / "s"
    dataset.open_folder(folder, SETTINGS, 1, 0)
    dataset.make((folder, [0]), lambda steps: None, lambda: False)
    file = folder / "simulation-000.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:500])
    else:
        write_tensors(file, {"density": torch.zeros(2, 1, 32, 32)})
    with pytest.raises(StudyError, match=r"simulation-000.safetensors.*[Dd]elete it"):
        dataset.load(folder)


def test_the_command_makes_a_set_with_a_preview_and_says_what_the_checks_found(tmp_path, capsys) -> None:
    words = ["data", "smoke", "--count", "2", "--frames", "2", "--size", "16", "--warm_up", "0", "--workers", "1"]
    out = ["--out", str(tmp_path / "s")]
    assert main([*words, *out]) == 0
    said = capsys.readouterr()
    assert "largest divergence" in said.out
    assert (tmp_path / "s" / "preview.png").read_bytes().startswith(b"\x89PNG")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "s").glob("simulation-*"))
    assert main([*words, *out]) == 0
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "s").glob("simulation-*"))
    with sole_use(tmp_path / "s", "making simulations"):
        assert main([*words, *out]) == 2
    assert "is making simulations" in capsys.readouterr().err
    assert main([*words, *out, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["data", "smoke", "--count", "0", *out]) == 2
    assert "--count must be at least 1" in capsys.readouterr().err
