"""What `racecar train` and `transfer` take beside the recipe; what is the same run, and what is another."""

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from racecar.study.core.folder import Study
from racecar.study.core.processes import Stopper

from .conftest import write_images

TRAIN = ("train", "--model", "small_nets:net", "--data", "data", "--epochs", "4", "--batch-size", "8",
         "--learning-rate", "1e-2", "--out", "a")  # fmt: skip
MORE = ("--racecar", "auto", "--keep", "best", "--ema", "0.8", "--clip", "0.5", "--layer-decay", "0.9",
        "--class-weights", "balanced", "--augmentation", "flip-crop", "--label-smoothing", "0.1")  # fmt: skip


def about(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "model.json").read_text())


def test_all_of_it_stopped_goes_on_to_the_same_bytes(data, command, monkeypatch) -> None:
    code, out, err = command(*TRAIN, *MORE, "--out", "whole")
    assert code == 0, err
    whole = about("whole")
    best = max(whole["history"], key=lambda p: p["accuracy"])
    assert (whole["epoch"], whole["accuracy"]) == (best["epoch"], best["accuracy"])
    assert whole["extras"] == {"keep": "best", "ema": 0.8, "clip": 0.5, "layer_decay": 0.9, "class_weights": "balanced"}
    assert f"λ = {whole['racecar']['weight']:.3g} (gradient ratio 0.3)" in out
    assert whole["racecar"]["ratio"] == 0.3
    for stop in (1, 6, 12):
        asked = iter([False] * stop + [True])
        monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))  # noqa: B023
        assert command(*TRAIN, *MORE)[0] == 130
        monkeypatch.setattr(Stopper, "__call__", lambda self: False)
        code, out, _ = command(*TRAIN, *MORE)
        assert code == 0
        assert "gradient ratio" not in out  # it was found before
        assert Path("a/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
        assert about("a")["racecar"] == whole["racecar"]
        shutil.rmtree("a")


def test_a_ratio_beyond_what_was_measured_counts_as_the_highest(data, command) -> None:
    code, _, err = command(*TRAIN, "--racecar", "auto", "--ratio", 10)
    assert code == 0
    assert "--ratio 10 is beyond what was measured as safe (results/balance.md): 3 is used" in err
    assert about("a")["racecar"]["ratio"] == 3
    assert "finished: nothing to do" in command(*TRAIN, "--racecar", "auto", "--ratio", 3)[1]
    code, _, err = command(*TRAIN, "--racecar", "auto")
    assert code == 2
    assert "racecar.ratio: 3.0 there, 0.3 now" in err


def test_early_stopping_ends_where_nothing_better_has_come(data, command) -> None:
    assert command(*TRAIN, "--epochs", 40, "--patience", 3, "--keep", "best")[0] == 0
    found = about("a")
    accuracies = [p["accuracy"] for p in found["history"]]
    assert len(accuracies) < 40
    assert found["epoch"] == accuracies.index(max(accuracies)) + 1 == len(accuracies) - 3
    out = command(*TRAIN, "--epochs", 40, "--patience", 3, "--keep", "best")[1]
    assert "finished: nothing to do" in out
    assert f"epoch {found['epoch']} of {len(accuracies)}" in out


def test_a_path_is_the_same_by_whatever_words(data, tmp_path, command) -> None:
    assert command(*TRAIN)[0] == 0
    assert "extras" not in (config := json.loads(Path("a/study.json").read_text())["config"])
    assert config["data"] == "data"  # as it was given
    (tmp_path / "link").symlink_to("data")
    for words in ("./data/", tmp_path / "data", "link"):
        assert "finished: nothing to do" in command(*TRAIN, "--data", words)[1]
    write_images(tmp_path / "other", seed=1)
    code, _, err = command(*TRAIN, "--data", "other")
    assert code == 2
    assert "data: data there, other now" in err


def test_a_checkpoint_is_the_same_by_its_weights(data, tmp_path, command) -> None:
    assert command(*TRAIN)[0] == 0
    words = ("transfer", "--model", "small_nets:net", "--data", "data", "--epochs", 1, "--no-probe", "--out", "b")
    assert command(*words, "--from", "a")[0] == 0
    shutil.move("a", "moved")
    code, out, err = command(*words, "--from", tmp_path / "moved", "--data", "./data")
    assert code == 0, err
    assert "all was done before" in out
    weights = load_file("moved/model.safetensors")
    weights["8.bias"] += 1
    save_file(weights, "moved/model.safetensors")
    code, _, err = command(*words, "--from", "moved")
    assert code == 2
    assert "weights: " in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--class-weights", "cow=2"], "no class 'cow'; there are cat, dog, owl"),
        (["--ema", "1"], "ema must be at least 0 and below 1"),
        (["--log", "tensorbord"], "--log tensorbord: there are tensorboard, csv, wandb, mlflow"),
        (["--ratio", "0"], "--ratio must be positive"),
        (["--racecar", "automatic"], "racecar"),
        (["--freeze", "00"], "--freeze 00: no module of that name; there are 0"),
        (["--freeze", "*"], "--freeze: nothing is left to train"),
        (["--pretrained"], "small_nets:net has no library's weights: give a safetensors file"),
        (["--pretrained", "x.safetensors"], "--pretrained x.safetensors: no such file"),
    ],
)
def test_what_is_wrong_is_said(data, tmp_path, command, options, said) -> None:
    code, _, err = command(*TRAIN, *options)
    assert code == 2
    assert said in err
    assert not (tmp_path / "a" / "model.json").exists()


def test_a_transfer_takes_them_too(data, command) -> None:
    assert command(*TRAIN)[0] == 0
    words = ("transfer", "--from", "a", "--model", "small_nets:net", "--data", "data", "--epochs", 3, "--out", "b")
    assert command(*words, "--no-probe", "--ema", 0.5, "--keep", "best", "--log", "csv", "--scratch")[0] == 0
    for kind in ("pretrained", "scratch"):
        found = about(f"b/{kind}-0")
        assert found["extras"] == {"keep": "best", "ema": 0.5}
        assert found["accuracy"] == max(p["accuracy"] for p in found["history"])
        assert Path(f"b/{kind}-0/log.csv").exists()
        assert not Path(f"b/{kind}-0/tensorboard").exists()


# --- more epochs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [MORE, ("--schedule", "steps", "--milestones", "[3]", "--optimiser", "sgd")])
def test_more_epochs_end_where_a_longer_training_ends(data, command, more, monkeypatch) -> None:
    assert command(*TRAIN, *more, "--out", "whole", "--epochs", 6)[0] == 0
    assert command(*TRAIN, *more, "--epochs", 2, "--data", "./data/")[0] == 0
    code, _, err = command(*TRAIN, *more, "--epochs", 3)
    assert code == 0, err
    assert about("a")["recipe"]["epochs"] == len(about("a")["history"]) == 3
    asked = iter([False] * 5 + [True])
    monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))
    assert command(*TRAIN, *more, "--epochs", 5)[0] == 130
    monkeypatch.setattr(Stopper, "__call__", lambda self: False)
    code, _, err = command(*TRAIN, *more, "--epochs", 6)  # also of an unfinished one
    assert code == 0, err
    assert Path("a/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert [p["loss"] for p in about("a")["history"]] == pytest.approx([p["loss"] for p in about("whole")["history"]])
    assert "finished: nothing to do" in command(*TRAIN, *more, "--epochs", 6)[1]
    code, _, err = command(*TRAIN, *more, "--epochs", 5)
    assert code == 2
    assert "recipe.epochs: 6 there, 5 now" in err


def test_where_more_epochs_cannot_be_right_they_are_refused(data, tmp_path, command) -> None:
    cosine = ("--schedule", "cosine", "--warmup", 0.2)
    assert command(*TRAIN, *cosine, "--epochs", 2)[0] == 0
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    code, _, err = command(*TRAIN, *cosine, "--epochs", 3)
    assert code == 2
    assert "a was trained for 2 epochs, over which the cosine schedule lets the rate fall to zero" in err
    assert "finished: nothing to do" in command(*TRAIN, *cosine, "--epochs", 2)[1]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "a" / "end.safetensors").exists()
    assert command(*TRAIN, "--epochs", 2, "--out", "b")[0] == 0
    code, _, err = command(*TRAIN, "--epochs", 3, "--batch-size", 4, "--out", "b")
    assert code == 2
    assert "recipe.batch_size: 8 there, 4 now" in err
    (tmp_path / "b" / "end.safetensors").unlink()
    code, _, err = command(*TRAIN, "--epochs", 3, "--out", "b")
    assert code == 2
    assert "b/end.safetensors, the state at the end of 2 epochs, does not exist" in err
    assert about("b")["recipe"]["epochs"] == 2


def test_killed_while_epochs_are_raised_neither_command_loses_it(data, command, monkeypatch) -> None:
    assert command(*TRAIN, "--epochs", 2)[0] == 0
    weights = Path("a/model.safetensors").read_bytes()
    note = Study.note

    def killed(self: Study, **content: Any) -> None:
        if "config" in content:
            raise KeyboardInterrupt
        note(self, **content)

    monkeypatch.setattr(Study, "note", killed)
    assert command(*TRAIN, "--epochs", 3)[0] == 130
    monkeypatch.setattr(Study, "note", note)
    assert command(*TRAIN, "--epochs", 2)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == weights
    assert len(about("a")["history"]) == 2
    assert command(*TRAIN, "--epochs", 3)[0] == 0
    assert len(about("a")["history"]) == 3


# --- where it begins, what stays --------------------------------------------------------------------------------------


def test_weights_of_a_file_and_what_is_frozen_stays(data, command) -> None:
    assert command(*TRAIN)[0] == 0
    write_images(Path("other"), classes=("x", "y"), seed=1)
    words = (*TRAIN, "--data", "other", "--pretrained", "a/model.safetensors", "--freeze", "0", "1*", "--out", "b")
    code, out, err = command(*words, "--racecar", "auto")
    assert code == 0, err
    assert "begins with trained weights, but for 8.weight, 8.bias" in out
    before, after = load_file("a/model.safetensors"), load_file("b/model.safetensors")
    assert {n for n in before if torch.equal(before[n], after[n])} == {n for n in before if n[0] in "01"}
    found = about("b")
    assert (found["pretrained"], found["frozen"]) == ("a/model.safetensors", ["0", "1*"])
    code, _, err = command(*words[:-1], "c", "--racecar", 1e-3, "--freeze", "[013]")
    assert code == 2
    assert "all that the penalty would train is frozen" in err
    code, _, err = command(
        *words[:-1], "d", "--freeze", "0", "--pretrained", "a/model.safetensors", "--model", "small_nets:headless"
    )
    assert code == 2
    assert "another architecture's" in err


def test_a_transfer_freezes_too_but_not_from_scratch(data, command) -> None:
    assert command(*TRAIN)[0] == 0
    words = ("transfer", "--from", "a", "--model", "small_nets:net", "--data", "data", "--epochs", 2, "--out", "b")
    assert command(*words, "--no-probe", "--scratch", "--freeze", "0")[0] == 0
    before, after = load_file("a/model.safetensors"), load_file("b/pretrained-0/model.safetensors")
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])
    assert about("b/scratch-0")["history"][-1]["loss"] != about("b/pretrained-0")["history"][-1]["loss"]
    code, _, err = command(*words, "--mode", "probe", "--freeze", "0")
    assert code == 2
    assert "--freeze needs --mode finetune" in err


def test_weights_of_torchvision(data, command, monkeypatch) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    trained = models.squeezenet1_1().state_dict()
    monkeypatch.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", lambda self, **more: trained)
    words = ("train", "--model", "torchvision:squeezenet1_1", "--data", "data", "--size", 32, "--epochs", 1, "--freeze")
    code, out, err = command(*words, "features", "--pretrained", "--out", "a")
    assert code == 0, err
    assert "but for classifier.1.weight, classifier.1.bias" in out
    found = load_file("a/model.safetensors")
    assert all(torch.equal(found[n], trained[n]) for n in found if n.startswith("features"))
    assert about("a")["input"]["mean"] == [0.485, 0.456, 0.406]  # ImageNet's, which the weights were trained with
    assert "weights" not in about("a")["options"]


def test_weights_of_timm(data, command, monkeypatch) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    trained = timm.create_model("test_resnet")
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **o: trained if pretrained else create(name, **o)
    )
    words = ("train", "--model", "timm:test_resnet", "--data", "data", "--epochs", 1, "--freeze", "layer?")
    code, out, err = command(*words, "--pretrained", "--out", "a")
    assert code == 0, err
    assert "but for fc.weight, fc.bias" in out
    found = load_file("a/model.safetensors")
    frozen = [n for n in found if n.startswith("layer")]
    assert frozen
    assert all(torch.equal(found[n], trained.state_dict()[n]) for n in frozen)


# --- where the numbers go ---------------------------------------------------------------------------------------------


def test_csv_has_a_line_per_epoch_whenever_it_was_stopped(data, command, monkeypatch) -> None:
    asked = iter([False] * 9 + [True])
    monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))
    assert command(*TRAIN, "--log", "csv")[0] == 130
    monkeypatch.setattr(Stopper, "__call__", lambda self: False)
    assert command(*TRAIN, "--log", "csv")[0] == 0
    with Path("a/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    history = about("a")["history"]
    assert [(int(r["epoch"]), int(r["step"])) for r in rows] == [(i, 4 * i) for i in (1, 2, 3, 4)]
    assert [float(r["loss/cross-entropy"]) for r in rows] == [p["loss"] for p in history]
    assert [float(r["accuracy/validation"]) for r in rows] == [p["accuracy"] for p in history]


class FakeMLflow(SimpleNamespace):
    """The calls that Accelerate's tracker makes."""

    def __init__(self) -> None:
        super().__init__(started=[], logged=[], ended=0)

    def search_experiments(self, filter_string: str) -> list[Any]:
        return [SimpleNamespace(experiment_id="1")]

    def start_run(self, run_id: str | None, **more: Any) -> Any:
        self.started.append(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics["accuracy/validation"]))

    def end_run(self) -> None:
        self.ended += 1


class FakeWandB(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(started=[], logged=[], ended=0)

    def init(self, **settings: Any) -> Any:
        self.started.append(settings)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values["accuracy/validation"]))

    def finish(self) -> None:
        self.ended += 1


def test_wandb_and_mlflow_go_on_with_the_same_run(data, command, monkeypatch) -> None:
    mlflow, wandb = FakeMLflow(), FakeWandB()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    asked = iter([False] * 9 + [True])
    monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))
    assert command(*TRAIN, "--log", "mlflow", "wandb")[0] == 130
    monkeypatch.setattr(Stopper, "__call__", lambda self: False)
    code, _, err = command(*TRAIN, "--log", "mlflow", "wandb")
    assert code == 0, err
    assert mlflow.started == [None, "new"]
    first, second = wandb.started
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert first["config"]["recipe"]["epochs"] == 4
    expected = [(4 * p["epoch"], p["accuracy"]) for p in about("a")["history"]]
    assert mlflow.logged == wandb.logged == expected
    assert mlflow.ended == wandb.ended == 2


def test_a_service_that_fails_ends_no_training(data, command, monkeypatch) -> None:
    mlflow = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)

    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("no connection\nat all")

    mlflow.log_metrics = fail
    code, _, err = command(*TRAIN, "--log", "mlflow", "csv")
    assert code == 0
    assert err.count("racecar: mlflow fails (no connection): it is told nothing more, training goes on") == 1
    assert len(Path("a/log.csv").read_text().splitlines()) == 5
    mlflow.start_run = fail
    code, _, err = command(*TRAIN, "--log", "mlflow", "--out", "b")
    assert code == 2
    assert "--log mlflow cannot begin: no connection" in err


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_done(data, tmp_path, command, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = command(*TRAIN, "--log", "wandb")
    assert code == 2
    assert "--log wandb needs wandb: pip install wandb" in err
    assert not (tmp_path / "a").exists()
