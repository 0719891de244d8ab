"""What is damaged on disk is found and said: never trained on, never taken for something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from racecar.study.core.checkpoints import Progress, pack, read_progress, unpack, write_progress
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors, read_tensors_and_metadata, write_tensors
from racecar.study.core.folder import Study


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
    with pytest.raises(ValueError, match="moments"):
        unpack(whole | {k.replace("optimiser0.0.", "optimiser0.7."): v for k, v in whole.items()}, [net], [adam])


@pytest.mark.parametrize(
    "content", ["[]", "null", '"text"', "{}", '{"experiment": "x"}', '{"experiment": 3, "config": {}}', "{"]
)
def test_a_description_that_is_none_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=r"study\.json"):
        Study(tmp_path, "x", {})


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
