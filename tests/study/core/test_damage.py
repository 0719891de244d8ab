"""What is damaged on disk is found and said: never trained on, never taken for something else."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from racecar.study.core.checkpoints import Progress, pack, read_progress, unpack, write_progress
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors, read_tensors_and_metadata, write_tensors
from racecar.study.core.folder import Study
from racecar.study.core.growing import remember, reopen
from racecar.study.core.variants import Run, Variant
from racecar.study.mutual_information.config import MutualInformationConfig


def state(folder: Path) -> Path:
    path = folder / "progress-run.safetensors"
    write_progress(path, Progress({"w": torch.arange(100.0), "n": torch.tensor(3)}, {"run": "x", "step": 7}))
    return path


def test_a_saved_state_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = read_progress(state(tmp_path))
    assert read is not None
    assert read.metadata == {"run": "x", "step": 7}
    assert torch.equal(read.tensors["w"], torch.arange(100.0))
    assert read_progress(tmp_path / "nothing.safetensors") is None
    assert capsys.readouterr().err == ""


def flip_tensor(content: bytearray) -> None:
    content[-50] ^= 4


def flip_step(content: bytearray) -> None:
    place = content.index(b'step\\": 7') + 8
    content[place : place + 1] = b"9"


def truncate(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.mark.parametrize("damage", [flip_tensor, flip_step, truncate])
def test_a_damaged_state_starts_again_and_says_so(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = state(tmp_path)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    assert read_progress(path) is None
    said = capsys.readouterr().err
    assert said.startswith("racecar: ")
    assert "progress-run.safetensors" in said
    assert "starts again" in said


def test_files_of_others_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors")
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["w"], torch.ones(3))
    write_tensors(tmp_path / "b.safetensors", {"w": torch.ones(3, dtype=torch.bfloat16), "e": torch.empty(0, 2)})
    assert read_tensors(tmp_path / "b.safetensors")["e"].shape == (0, 2)


def test_missing_moments_are_refused() -> None:
    net = nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    whole = pack([net], [adam])
    unpack(whole, [net], [adam])
    lacking = next(k for k in whole if k.endswith("exp_avg_sq"))
    with pytest.raises(ValueError, match="moments"):
        unpack({k: v for k, v in whole.items() if k != lacking}, [net], [adam])
    for gone in ("optimiser0.0.", "optimiser0."):  # of one parameter, and all
        with pytest.raises(ValueError, match="moments"):
            unpack({k: v for k, v in whole.items() if not k.startswith(gone)}, [net], [adam])
    with pytest.raises(ValueError, match="moments"):
        unpack(whole | {k.replace("optimiser0.0.", "optimiser0.7."): v for k, v in whole.items()}, [net], [adam])


@pytest.mark.parametrize("about", ["[]", "null", "7", '"text"', "", "{", "[" * 100_000])
def test_a_state_that_says_something_else_of_itself_starts_again(
    about: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(tmp_path / "s", "x", {})
    write_tensors(study.folder / "progress-a.safetensors", {"w": torch.ones(2)}, {"about": about})
    write_tensors(study.folder / "progress-b.safetensors", {"w": torch.ones(2)})
    assert study.load_progress() == study.progress_notes() == []
    assert study.read_progress("a") is None
    assert capsys.readouterr().err.count("is no saved state. What it held starts again from its beginning") == 3


def test_what_a_state_lacks_is_one_line_with_its_file_and_the_remedy(tmp_path: Path) -> None:
    for wrong in (KeyError("step"), IndexError("x"), AttributeError("x"), ValueError("x"), RuntimeError("x")):
        with (
            pytest.raises(
                StudyError, match=r"does not fit this run: .*Delete .*/a\.safetensors to start again"
            ) as found,
            Progress({}, {}, tmp_path / "a.safetensors").restored("run"),
        ):
            raise wrong
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "content", ["[]", "null", '"text"', "{}", '{"experiment": "x"}', '{"experiment": 3, "config": {}}', "{"]
)
def test_a_description_that_is_none_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=r"study\.json"):
        Study(tmp_path, "x", {})


@pytest.mark.parametrize("value", [None, [], {}, "text", 7, -1, [3], {"a": 3}])
@pytest.mark.parametrize(
    "key", ["experiment", "config", "command", "environment", "seconds", "variants", "phases", "seeds", "revisions"]
)
def test_a_description_with_one_strange_value_is_read_or_one_line(key: str, value: Any, tmp_path: Path) -> None:
    study = Study(tmp_path, "x", {"a": 1})
    study.note(variants=["Std"], phases=["A"], seeds=2, revisions=["f00"])
    study.note(**{key: value})
    with suppress(StudyError):
        again = Study(tmp_path, "x", {"a": 1})
        again.add_command()
        again.add_seconds(1)
        remember(again, MutualInformationConfig(variants=["RR1"]))
        assert set(again.metadata()["variants"]) <= {"Std", "RR1"}


def test_settings_of_no_study_are_one_line(tmp_path: Path) -> None:
    strange: list[dict[str, Any]] = [
        {"epochs": 3}, {"seeds": "many"}, {"training": {"epochs": "ten"}}, {"variants": 7}, {"protocol": "other"},
        {"protocol": []}, {"training": []}, {"training": {"ort_squared": 1}}, {"variants": [7]}, {"seeds": True},
    ]  # fmt: skip
    for config in strange:
        (tmp_path / "study.json").unlink(missing_ok=True)
        Study(tmp_path, "x", config)
        with pytest.raises(StudyError, match=r"study\.json holds settings of no study of this version"):
            reopen(tmp_path, "x", MutualInformationConfig)


def test_metrics_that_are_none_and_weights_that_are_gone_are_one_line(tmp_path: Path) -> None:
    study, run = Study(tmp_path / "s", "x", {}), Run(Variant("Std"), "A", 0)
    study.finish(run, {"w": torch.ones(2)}, {"accuracy": 0.5})
    assert study.metrics(run)["accuracy"] == 0.5
    with pytest.raises(StudyError, match=r"run\.json holds no top5: delete it"):
        study.metrics(run)["top5"]
    (study.path(run) / "model.safetensors").unlink()
    with pytest.raises(StudyError, match=r"model\.safetensors does not exist: copy it back, or delete run\.json"):
        study.weights(run)
    for content in ("[]", "null", "7"):
        (study.path(run) / "run.json").write_text(content, encoding="utf-8")
        with pytest.raises(StudyError, match=r"run\.json does not describe a run: delete it"):
            study.metrics(run)
    for wrong in (
        '{"accuracy": "0.5"}',
        '{"accuracy": null}',
        '{"accuracy": NaN}',
        '{"history": 7}',
        '{"history": [7]}',
    ):
        (study.path(run) / "run.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(StudyError, match=r"run\.json does not describe a run \(\w+ missing or wrong\): delete it"):
            study.metrics(run)
    (study.path(run) / "run.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(StudyError, match=r"run\.json cannot be read"):
        study.metrics(run)


@pytest.mark.parametrize(
    "name", [".DS_Store", ".nfs000000000012", "Thumbs.db", "notes~", "._run", ".run.json.a1b2c3d4"]
)
def test_what_systems_leave_in_a_folder_is_no_obstacle(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x", encoding="utf-8")
    Study(tmp_path, "x", {}).remove_leftovers()
    assert (tmp_path / name).exists() == ("run.json" not in name)


def test_a_description_is_read_again(tmp_path: Path) -> None:
    Study(tmp_path, "x", {"a": 1})
    assert Study(tmp_path, "x", {"a": 1}).metadata()["config"] == {"a": 1}
    known = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    (tmp_path / "study.json").write_text(json.dumps([known]), encoding="utf-8")
    with pytest.raises(StudyError, match="does not describe a study"):
        Study(tmp_path, "x", {"a": 1}).metadata()


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    metadata = {"model": "m", "a": "ü", "b": 'line\n"quoted"', "c": "1", "d": "2"}
    for number in range(5):
        write_tensors(tmp_path / str(number), {"é": torch.arange(6.0)}, metadata)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(5)}) == 1
    assert read_tensors_and_metadata(tmp_path / "0")[1] == metadata
