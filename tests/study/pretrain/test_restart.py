"""With which weights ``racecar transfer`` begins; a learning rate of nothing leaves them as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from racecar.study.core.restart import FRESH
from racecar.study.pretrain import checkpoint

from .conftest import write_images
from .test_commands import TRAIN

STILL = ("transfer", "--from", "a", "--model", "small_nets:net", "--epochs", "1", "--batch-size", "8",
         "--learning-rate", "1e-12", "--no-probe")  # fmt: skip
WEIGHTS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "8.weight", "8.bias")


@pytest.fixture
def trained(data, command) -> dict[str, torch.Tensor]:
    assert command(*TRAIN)[0] == 0
    return load_file("a/model.safetensors")


def begun(command, *options: object) -> dict[str, torch.Tensor]:
    code, _, err = command(*STILL, "--out", "b", *options)
    assert code == 0, err
    return load_file("b/pretrained-0/model.safetensors")


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("options", "kept"), [(("--restart", "keep"), 8), (("--restart", "head"), 6), ((), 6)])
def test_all_weights_or_all_but_the_last_layer_are_kept(trained, command, options, kept: int) -> None:
    found = begun(command, "--data", "data", *options)
    assert [n for n in WEIGHTS if near(found[n], trained[n])] == list(WEIGHTS[:kept])
    assert json.loads(Path("b/transfer.json").read_text())["restart"] == (options or ("", "head"))[1]


def test_shrink_halves_every_weight_and_adds_half_of_a_fresh_one(trained, command) -> None:
    found = begun(command, "--data", "data", "--restart", "shrink")
    fresh = checkpoint.construct(checkpoint.read_metadata(Path("a")), FRESH).state_dict()
    for name in WEIGHTS:
        assert near(found[name], (trained[name] + fresh[name]) / 2), name


def test_shrink_begins_with_a_new_last_layer_where_the_classes_do_not_fit(trained, command, tmp_path) -> None:
    write_images(tmp_path / "other", classes=("x", "y"))
    found = begun(command, "--data", "other", "--restart", "shrink")
    code, _, err = command(*STILL, "--data", "other", "--out", "c")
    assert code == 0, err
    as_head = load_file("c/pretrained-0/model.safetensors")
    assert near(found["8.weight"], as_head["8.weight"])
    assert not near(found["3.weight"], as_head["3.weight"])


def test_a_restart_belongs_to_the_folder(trained, command) -> None:
    begun(command, "--data", "data", "--restart", "head")
    assert "restart" not in json.loads(Path("b/study.json").read_text())["config"]  # as folders of before
    code, _, err = command(*STILL, "--data", "data", "--out", "b", "--restart", "keep")
    assert code == 2
    assert "restart" in err


def test_restarts_that_mean_nothing_are_refused(trained, command, tmp_path) -> None:
    write_images(tmp_path / "other", classes=("x", "y"))
    code, _, err = command(*STILL, "--data", "other", "--out", "b", "--restart", "keep")
    assert code == 2
    assert "--restart keep needs as many classes as a knows, 3, and other has 2: use --restart head or shrink" in err
    assert not Path("b").exists()
    code, _, err = command(*STILL, "--data", "data", "--out", "b", "--restart", "shrink", "--mode", "probe")
    assert code == 2
    assert "--restart shrink needs --mode finetune" in err
