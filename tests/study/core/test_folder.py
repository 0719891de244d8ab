import json
import os
from pathlib import Path

import pytest
import torch

from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_json, read_tensors, write_atomically, write_json, write_tensors
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.pretrain.checkpoint import write

RUN = Run(Variant("Std"), "A", 0)
WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3)}


def test_a_finished_run_comes_back(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", "test", {"epochs": 3})
    assert not study.finished(RUN)
    assert study.metrics(RUN) is None
    study.finish(RUN, WEIGHTS, {"accuracy": 0.5})
    again = Study(tmp_path / "s", "test", {"epochs": 3})
    assert again.finished(RUN)
    assert again.metrics(RUN) == {"model": "Std_A", "seed": 0, "accuracy": 0.5}
    torch.testing.assert_close(again.weights(RUN), WEIGHTS)


def test_weights_load_into_a_plain_model_without_racecar(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", "test", {})
    study.finish(RUN, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, {})
    model = torch.nn.Linear(3, 2)
    model.load_state_dict(study.weights(RUN))
    assert model.weight.eq(1).all()


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [("other", {"epochs": 3}, "holds the study 'test'"), ("test", {"epochs": 4}, "epochs: 3 there, 4 now")],
)
def test_a_folder_holds_one_configuration(tmp_path: Path, name, config, words) -> None:
    Study(tmp_path / "s", "test", {"epochs": 3})
    with pytest.raises(StudyError, match=words):
        Study(tmp_path / "s", name, config)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StudyError, match="not empty"):
        Study(tmp_path, "test", {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_every_command_that_filled_a_folder_is_named_once(tmp_path: Path, monkeypatch) -> None:
    for argv in (["racecar", "study", "a"], ["racecar", "study", "a", "--seeds", "5"], ["racecar", "study", "a"]):
        monkeypatch.setattr("sys.argv", argv)
        study = Study(tmp_path / "s", "test", {})
        study.add_command()
    assert study.metadata()["command"] == "racecar study a && racecar study a --seeds 5"


def test_what_a_killed_process_left_half_written_is_no_obstacle_and_is_swept(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".study.json.abcd1234").write_text("{")
    study = Study(tmp_path / "s", "test", {})
    study.finish(RUN, WEIGHTS, {})
    (study.path(RUN) / ".model.safetensors.k2_9zq1x").write_bytes(b"half")
    (study.path(RUN) / ".tmpQm3x9a").write_bytes(b"half")
    (study.folder / ".mine").write_text("kept")
    study.remove_leftovers()
    assert sorted(p.name for p in study.folder.rglob("*") if p.is_file()) == [
        ".mine",
        "model.safetensors",
        "run.json",
        "study.json",
    ]


def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def half(temporary: Path) -> None:
        temporary.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(StudyError, match="No space left on device"):
        write_atomically(path, half)
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """The names that files get, in order, each of which must have been on the disk by then, as long as it is."""
    fsync, replace, synced, named = os.fsync, os.replace, {}, []

    def on_disk(file: int) -> None:
        fsync(file)
        synced[os.fstat(file).st_ino] = os.fstat(file).st_size

    def give_name(source: Path, target: Path) -> None:
        status = os.stat(source)
        assert synced.get(status.st_ino) == status.st_size, f"{target} was not written to the disk"
        named.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", on_disk)
    monkeypatch.setattr(os, "replace", give_name)
    return named


def test_files_are_on_the_disk_before_they_have_a_name_and_a_run_is_finished_last(tmp_path: Path, order) -> None:
    study = Study(tmp_path / "s", "test", {})
    study.save_progress("a", Progress(WEIGHTS, {}))
    study.keep(RUN, "optimiser", WEIGHTS)
    study.finish(RUN, WEIGHTS, {"accuracy": 0.5})
    expected = ["study.json", "progress-a.safetensors", "optimiser.safetensors", "model.safetensors", "run.json"]
    assert order == expected


def test_a_checkpoint_is_finished_last(tmp_path: Path, order) -> None:
    write(tmp_path, torch.nn.Linear(2, 2), {"model": "a:b"})
    assert order == ["model.safetensors", "model.json"]


def test_a_run_whose_weights_cannot_be_written_is_not_finished(tmp_path: Path, monkeypatch) -> None:
    study = Study(tmp_path / "s", "test", {})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("racecar.study.core.files.save_file", full)
    with pytest.raises(StudyError, match="No space left on device"):
        study.finish(RUN, WEIGHTS, {})
    assert not study.finished(RUN)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"{" * 50])
def test_damaged_files_are_named(tmp_path: Path, content) -> None:
    for name, read in (("run.json", read_json), ("model.safetensors", read_tensors)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StudyError, match=f"{name} cannot be read"):
            read(tmp_path / name)


def test_progress_survives_and_a_truncated_one_counts_as_none(tmp_path: Path) -> None:
    study = Study(tmp_path / "s", "test", {})
    study.save_progress("a", Progress(WEIGHTS, {"runs": [RUN.key]}))
    study.save_progress("b", Progress(WEIGHTS, {"runs": []}))
    assert [p.metadata for p in study.load_progress()] == [{"runs": [RUN.key]}, {"runs": []}]
    file = tmp_path / "s" / "progress-a.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert [p.metadata for p in study.load_progress()] == [{"runs": []}]
    study.drop_progress("a")
    study.drop_progress("b")
    assert study.load_progress() == []


def test_what_saved_states_are_about_is_known_without_their_tensors(tmp_path: Path) -> None:
    study = Study(tmp_path / "out", "mutual-information", {})
    for i in range(3):
        study.save_progress(f"slot-{i}", Progress({"x": torch.arange(1000.0)}, {"run": i}))
    path = tmp_path / "out" / "progress-slot-1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert study.progress_notes() == [p.metadata for p in study.load_progress()] == [{"run": 0}, {"run": 2}]


def test_data_of_another_study_are_taken_without_a_second_copy(tmp_path: Path) -> None:
    first, second = (Study(tmp_path / name, "digits", {}) for name in ("first", "second"))
    write_tensors(first.folder / "data-A-train.safetensors", {"x": torch.arange(3.0)})
    first.note(sources={"A": "made up"})
    for _ in range(2):
        second.take_data(first)
    taken = second.folder / "data-A-train.safetensors"
    assert taken.samefile(first.folder / "data-A-train.safetensors")
    assert second.metadata()["sources"] == {"A": "made up"}
    write_tensors(taken, {"x": torch.zeros(1)})  # a later write is the second's own
    assert read_tensors(first.folder / "data-A-train.safetensors")["x"].numel() == 3


def test_data_are_copied_where_links_do_not_work(tmp_path: Path, monkeypatch) -> None:
    first, second = (Study(tmp_path / name, "digits", {}) for name in ("first", "second"))
    write_tensors(first.folder / "data-A-train.safetensors", {"x": torch.arange(3.0)})

    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    second.take_data(first)
    taken = second.folder / "data-A-train.safetensors"
    assert not taken.samefile(first.folder / "data-A-train.safetensors")
    assert read_tensors(taken)["x"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StudyError, match="cannot write"):
        Study(tmp_path / "s", "test", {})


def test_nothing_but_json_and_safetensors_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.14.1+cu130"))
    study = Study(tmp_path / "s", "test", {})
    study.finish(RUN, WEIGHTS, {"accuracy": 1.0})
    study.note(seconds=1.5)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".json", ".safetensors"}
    metadata = json.loads((tmp_path / "s" / "study.json").read_text())
    assert metadata["seconds"] == 1.5
    assert {"processor", "revision"} <= metadata["environment"].keys()
    assert metadata["environment"]["torch"] == "2.14.1+cu130"  # for what it was built, too
