"""A checkpoint from anywhere runs no code that the user has not named, and opens nothing beside itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from racecar.study.core.errors import StudyError
from racecar.study.pretrain import checkpoint
from racecar.study.stylize.networks import open_network


def made(folder: Path, **changes: Any) -> Path:
    """A checkpoint of this package's own network, with entries changed."""
    from racecar.study.cifar.network import strong

    folder.mkdir(exist_ok=True)
    model = strong(classes=3, width=4)
    save_file(model.state_dict(), folder / "model.safetensors")
    content = {
        "model": "racecar.study.cifar.network:strong", "options": {"classes": 3, "width": 4}, "outputs": 3,
        "classes": ["a", "b", "c"],
        "input": {"channels": 3, "height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.2] * 3},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return folder


def test_the_packages_own_network_is_opened(tmp_path: Path) -> None:
    model, metadata = checkpoint.open_checkpoint(made(tmp_path / "m"))
    assert isinstance(model, nn.Module)
    assert metadata["outputs"] == 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"model": "subprocess:getoutput", "options": {"cmd": "touch ran"}}, "repeat its name.*:getoutput"),
    "code of this package": ({"model": "racecar.study.core.files:write_text"}, "repeat its name"),
    "a hub": ({"model": "timm:hf-hub:someone/else", "options": {}}, "plain names"),
    "a folder": ({"model": "timm:local-dir:/tmp/x", "options": {}}, "plain names"),
    "a file": ({"model": "timm:resnet18", "options": {"checkpoint_path": "x.pth"}}, "'checkpoint_path'"),
    "an overlay": ({"model": "timm:resnet18", "options": {"pretrained_cfg_overlay": {"file": "x"}}}, "overlay"),
    "weights": ({"model": "torchvision:resnet18", "options": {"weights": "DEFAULT"}}, "'weights'"),
    "a path as a word": ({"model": "timm:resnet18", "options": {"act_layer": "../../x"}}, "plain words"),
    "a size": ({"model": "timm:resnet18", "options": {"num_classes": 10**9}}, "beyond"),
    "nested": ({"model": "timm:resnet18", "options": {"block_args": {"deep": ["http://x"]}}}, "plain words"),
    "outputs": ({"outputs": 10**9}, "outputs must be"),
    "height": ({"input": {"channels": 3, "height": "3", "width": 3, "mean": [0], "std": [1]}}, "height must be"),
    "mean": ({"input": {"channels": 3, "height": 3, "width": 3, "mean": "a", "std": [1]}}, "mean must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", [checkpoint.open_checkpoint, lambda folder: open_network(str(folder))])
def test_what_it_must_not_ask_for(case: str, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, words = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=words):
        command(made(tmp_path / "m", **changes))
    assert not (tmp_path / "ran").exists()


def test_code_that_the_user_names_is_run(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", model="torch.nn:Linear", options={"in_features": 2, "out_features": 3})
    save_file(nn.Linear(2, 3).state_dict(), folder / "model.safetensors")
    assert isinstance(checkpoint.open_checkpoint(folder, "torch.nn:Linear")[0], nn.Linear)
    with pytest.raises(StudyError, match=r"holds torch\.nn:Linear, not torch\.nn:Conv2d"):
        checkpoint.open_checkpoint(folder, "torch.nn:Conv2d")


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    from racecar.study.core.files import write_tensors

    folder = made(tmp_path / "m")
    model, _ = checkpoint.open_checkpoint(folder)
    write_tensors(folder / "model.safetensors", model.state_dict())
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(StudyError, match=r"truncated|damaged|does not hold"):
        checkpoint.open_checkpoint(folder)
    assert torch.isfinite(next(model.parameters())).all()
