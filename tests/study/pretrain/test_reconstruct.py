"""Training without labels: the penalty alone, whatever lies in the folder; then transfer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import racecar
from racecar.study import train
from racecar.study.classification.batches import Batches, Normalisation
from racecar.study.core.processes import Stopper
from racecar.study.images.load import load
from racecar.study.pretrain import checkpoint

from .conftest import write_images

TRAIN = ("train", "--task", "reconstruct", "--model", "small_nets:plain", "--data", "data", "--epochs", "4",
         "--batch-size", "8", "--learning-rate", "1e-2", "--out", "a")  # fmt: skip


def about(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "model.json").read_text())


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """27 images in one folder."""
    write_images(tmp_path / "labelled", splits=("train",))
    (tmp_path / "data").mkdir()
    for i, file in enumerate(sorted((tmp_path / "labelled").rglob("*.png"))):
        file.rename(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


def test_it_is_the_loop_one_would_write(loose, command, tmp_path) -> None:
    code, out, err = command(*TRAIN, "--optimiser", "sgd", "--momentum", 0)
    assert code == 0, err
    assert "train 24 / validation 3" in err
    assert "without labels" in err
    found = about("a")
    assert (found["task"], found["classes"], found["accuracy"]) == ("reconstruct", ["unlabelled"], None)
    assert found["racecar"] == {"weight": 1.0, "layers": 1, "start": None, "reduction": "mean"}
    assert f"{found['error']:.4g}" in out

    loaded = load("data", labelled=False, tell=lambda text: None)
    normalise = Normalisation.of(loaded.train)
    model, _ = checkpoint.build("small_nets:plain", {}, 1, 3, 0)
    rr = racecar.Racecar(model, normalise(loaded.train.pixels[:2]), layers=1)
    optimiser = torch.optim.SGD(model.parameters(), 1e-2)
    for epoch in range(4):
        penalties = []
        for x, _, _ in Batches(loaded.train, 8, 0, normalise).epoch(epoch):
            pair, *_ = rr.reconstruct(x).values()
            penalties.append(0.5 * (pair[0] - pair[1]).square().mean().item())
            penalty = rr(x)[1]
            optimiser.zero_grad()
            penalty.backward()
            optimiser.step()
        assert found["history"][epoch]["penalty"] == pytest.approx(sum(penalties) / 3, rel=1e-4)
    weights = checkpoint.load(Path("a"), found).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, msg=name)
    model.eval()
    pair, *_ = rr.reconstruct(normalise(loaded.validation.pixels)).values()
    error = 0.5 * (pair[0] - pair[1]).square().mean().item()
    assert found["error"] == found["history"][-1]["error"] == pytest.approx(error, rel=1e-4)
    assert found["history"][-1]["loss"] == 0


def test_stopped_it_goes_on_to_the_same_bytes_and_the_smallest_error_is_kept(loose, command, monkeypatch) -> None:
    words = (*TRAIN, "--model", "small_nets:net", "--keep", "best", "--ema", "0.5", "--augmentation", "crop")
    assert command(*words, "--out", "whole")[0] == 0
    errors = [p["error"] for p in about("whole")["history"]]
    assert about("whole")["epoch"] == errors.index(min(errors)) + 1
    asked = iter([False] * 7 + [True])
    monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))
    assert command(*words)[0] == 130
    monkeypatch.setattr(Stopper, "__call__", lambda self: False)
    assert command(*words)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("model", ["small_nets:plain", "small_nets:three"])  # the second takes no number of classes
def test_labels_may_be_there_and_transfer_puts_on_a_last_layer(data, tmp_path, command, model) -> None:
    code, _, err = command(*TRAIN, "--model", model)
    assert code == 0, err
    assert "train 49 / validation 5" in err  # all images, whatever their split
    words = ("transfer", "--from", "a", "--model", model, "--data", "data", "--epochs", 2, "--batch-size", 8)
    code, _, err = command(*words, "--scratch", "--out", "b")
    assert code == 0, err
    assert about("b/pretrained-0")["classes"] == ["cat", "dog", "owl"]
    shutil.rmtree("b")
    code, _, err = command(*words, "--restart", "keep", "--out", "b")
    assert code == 2
    assert "--restart keep needs as many classes" in err


def test_it_answers_nothing(loose, command) -> None:
    assert command(*TRAIN)[0] == 0
    code, out, err = command("predict", "--from", "a", "--model", "small_nets:plain", "data/0.png")
    assert (code, out) == (2, "")
    assert "was trained to reconstruct and knows no classes" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--racecar", "auto"], "--task reconstruct has no labels: --racecar auto cannot"),
        (["--mixup", "0.1", "--class-weights", "balanced"], "--class-weights and --mixup cannot be used with it"),
        (["--validation", "test"], "--validation cannot be used with it"),
    ],
)
def test_what_needs_labels_is_refused(loose, tmp_path, command, options, said) -> None:
    code, _, err = command(*TRAIN, *options)
    assert code == 2
    assert said in err
    assert not (tmp_path / "a").exists()


def test_in_python(loose) -> None:
    done = train("small_nets:plain", loose, task="reconstruct", out="a")
    assert done.task == "reconstruct"
    assert done.error == pytest.approx(min(p.error for p in done.history if p.error is not None), rel=0.2)
    with pytest.raises(racecar.study.StudyError, match="it has no accuracy"):
        _ = done.accuracy
    assert done.curves()
