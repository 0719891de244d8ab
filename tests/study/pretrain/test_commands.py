"""``racecar train`` and ``racecar transfer`` as a user meets them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from racecar.study.cli import main
from racecar.study.pretrain import checkpoint

from .conftest import environment, write_images

TRAIN = ("train", "--model", "small_nets:net", "--data", "data", "--racecar", "1e-2", "--epochs", "4",
         "--batch-size", "8", "--learning-rate", "1e-2", "--out", "a")  # fmt: skip
TRANSFER = ("transfer", "--from", "a", "--model", "small_nets:net", "--data", "other", "--epochs", "3",
            "--batch-size", "8", "--learning-rate", "1e-2", "--out", "b")  # fmt: skip


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    return [(e.step, e.value) for e in log.Scalars(name)]


def test_train_then_transfer_reports_both_and_their_difference(data, tmp_path, command) -> None:
    code, out, err = command(*TRAIN)
    assert code == 0, err
    metadata = json.loads((tmp_path / "a" / "model.json").read_text())
    assert metadata["accuracy"] > 0.6
    assert f"{metadata['accuracy']:.4f}" in out
    assert metadata["classes"] == ["cat", "dog", "owl"]
    lines = [line for line in err.splitlines() if "epoch" in line]  # stderr is no terminal
    assert [line.partition("small_nets:net: epoch ")[2][:3] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert f"validation {metadata['accuracy']:.4g}, " in lines[-1]
    assert metadata["racecar"]["weight"] == 1e-2
    assert metadata["history"][0]["penalty"] > 0
    assert "model = net(num_classes=3)" in out
    assert 'load_file("a/model.safetensors")' in out
    assert not list((tmp_path / "a").glob("progress*"))
    steps = scalars(tmp_path / "a", "accuracy/validation")
    assert [s for s, _ in steps] == [4, 8, 12, 16]
    assert steps[-1][1] == pytest.approx(metadata["accuracy"])
    for name in ("loss/cross-entropy", "loss/penalty", "accuracy/train", "learning-rate", "seconds-per-epoch"):
        assert len(scalars(tmp_path / "a", name)) == 4

    write_images(tmp_path / "other", classes=("x", "y"), size=12, seed=1)
    code, out, err = command(*TRANSFER, "--scratch", "--seeds", 2)
    assert code == 0, err
    found = json.loads((tmp_path / "b" / "transfer.json").read_text())
    ab, b = found["accuracy"]["p_AB"], found["accuracy"]["p_B"]
    assert len(ab) == len(b) == found["n"] == 2
    assert found["summary"]["p_AB − p_B"]["mean"] == pytest.approx(sum(ab) / 2 - sum(b) / 2)
    assert "n = 2" in out
    assert "p_AB − p_B" in out
    # The new network saw 8 × 8 pixels, as the old one, normalised as for the old one.
    new = json.loads((tmp_path / "b" / "pretrained-0" / "model.json").read_text())
    assert new["input"] == metadata["input"]
    assert new["classes"] == ["x", "y"]
    # More seeds are added to what is there; what is done stays.
    before = (tmp_path / "b" / "scratch-1" / "model.json").stat().st_mtime_ns
    assert command(*TRANSFER, "--scratch", "--seeds", 3)[0] == 0
    assert json.loads((tmp_path / "b" / "transfer.json").read_text())["n"] == 3
    assert (tmp_path / "b" / "scratch-1" / "model.json").stat().st_mtime_ns == before
    # What transfer wrote is a checkpoint as well.
    code, _, err = command(
        "transfer",
        "--from",
        "b/pretrained-0",
        "--model",
        "small_nets:net",
        "--data",
        "data",
        "--epochs",
        1,
        "--out",
        "c",
    )
    assert code == 0, err


def test_a_probe_changes_the_last_layer_alone(data, tmp_path, command) -> None:
    assert command(*TRAIN)[0] == 0
    assert command(*TRANSFER, "--data", "data", "--mode", "probe", "--labels", 0.34)[0] == 0
    before, after = load_file("a/model.safetensors"), load_file("b/pretrained-0/model.safetensors")
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"8.weight", "8.bias"}
    assert json.loads(Path("b/pretrained-0/model.json").read_text())["train_images"] == 9


def test_the_checkpoint_needs_no_racecar(data, tmp_path, command) -> None:
    code, out, _ = command(*TRAIN)
    assert code == 0
    script = "import sys; sys.modules['racecar'] = None\n" + out.partition("without racecar:")[2] + SCRIPT
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(json.loads(Path("a/model.json").read_text())["accuracy"])


SCRIPT = """
import json, pathlib, numpy, torch
from PIL import Image
about = json.load(open("a/model.json"))
mean, std = (torch.tensor(about["input"][k]).view(3, 1, 1) for k in ("mean", "std"))
model.eval()
right = []
for file in pathlib.Path("data/test").rglob("*.png"):
    x = torch.from_numpy(numpy.array(Image.open(file))).permute(2, 0, 1) / 255
    label = model(((x - mean) / std)[None]).argmax().item()
    right.append(about["classes"][label] == file.parent.name)
print(sum(right) / len(right))
"""


def test_a_finished_folder_is_left_alone_and_another_configuration_refused(data, tmp_path, command) -> None:
    assert command(*TRAIN)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    code, out, _ = command(*TRAIN)
    assert code == 0
    assert "a is finished: nothing to do" in out
    code, _, err = command(*TRAIN, "--batch_size", 4, "--racecar", 0)
    assert code == 2
    assert "racecar.weight: 0.01 there, 0.0 now" in err
    assert "recipe.batch_size: 8 there, 4 now" in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == before


def test_options_from_yaml_and_a_class_without_num_classes(data, tmp_path, command) -> None:
    Path("c.yaml").write_text("model: small_nets:three\ndata: data\nepochs: 1\nbatch_size: 8\nout: y\nsize: 6\n")
    code, _, err = command("train", "--config", "c.yaml", "--batch-size", 4)
    assert code == 0, err
    metadata = json.loads((tmp_path / "y" / "model.json").read_text())
    assert metadata["recipe"]["batch_size"] == 4
    assert metadata["input"]["height"] == 6
    assert metadata["options"] == {}
    assert metadata["racecar"] is None
    # Two classes now: the constructor cannot make that network, the last layer is replaced, also when loaded again.
    write_images(tmp_path / "other", classes=("x", "y"), seed=1)
    for source, out_folder in (("y", "b"), ("b/pretrained-0", "d")):
        words = ("transfer", "--from", source, "--model", "small_nets:three", "--data", "other", "--epochs", 1)
        code, _, err = command(*words, "--out", out_folder, "--scratch")
        assert code == 0, err
    assert load_file("d/pretrained-0/model.safetensors")["8.weight"].shape[0] == 2


def test_bad_images_are_named_and_left_out_when_asked(data, tmp_path, command) -> None:
    (data / "train" / "cat" / "bad.png").write_bytes(b"no image")
    code, _, err = command(*TRAIN)
    assert code == 2
    for part in ("1 of 28 images", "bad.png", "--skip-bad"):
        assert part in err
    assert not (tmp_path / "a").exists()
    code, _, err = command(*TRAIN, "--skip-bad")
    assert code == 0
    assert "left out 1 images" in err
    assert "bad.png" in err
    assert json.loads((tmp_path / "a" / "model.json").read_text())["train_images"] == 27


def test_stopped_by_a_signal_it_goes_on_and_logs_nothing_twice(data, tmp_path, command, monkeypatch) -> None:
    from racecar.study.core.processes import Stopper

    assert command(*TRAIN, "--out", "whole")[0] == 0
    asked = iter([False] * 9 + [True])
    monkeypatch.setattr(Stopper, "__call__", lambda self: next(asked))
    code, _, err = command(*TRAIN)
    assert code == 130
    assert "the same command goes on from here" in err
    (tmp_path / "data" / "train" / "cat" / "0.png").rename(tmp_path / "kept.png")
    code, _, err = command(*TRAIN)
    assert code == 2
    assert "not those that a began with (27 + 27 then, 26 + 27 now" in err
    (tmp_path / "kept.png").rename(tmp_path / "data" / "train" / "cat" / "0.png")
    monkeypatch.setattr(Stopper, "__call__", lambda self: False)
    assert command(*TRAIN)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert [s for s, _ in scalars(tmp_path / "a", "loss/cross-entropy")] == [4, 8, 12, 16]
    left, right = (json.loads((tmp_path / n / "model.json").read_text())["history"] for n in ("a", "whole"))
    assert [p["loss"] for p in left] == pytest.approx([p["loss"] for p in right], rel=1e-12)


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_library_models_load_as_they_are(data, tmp_path, command, name) -> None:
    source, _, what = name.partition(":")
    library = pytest.importorskip(source)
    size = () if source == "timm" else ("--size", 32)
    words = ("--epochs", 1, "--batch-size", 8)
    code, out, err = command("train", "--model", name, "--data", "data", "--out", "a", *size, *words)
    assert code == 0, err
    make = library.create_model if source == "timm" else library.models.get_model
    model = make(what, num_classes=3)
    model.load_state_dict(load_file("a/model.safetensors"))
    namespace: dict[str, torch.nn.Module] = {}
    exec(out.partition("without racecar:")[2], namespace)
    same = namespace["model"].state_dict()
    assert all(torch.equal(v, same[k]) for k, v in model.state_dict().items())
    write_images(tmp_path / "other", classes=("x", "y"), seed=1)
    code, _, err = command("transfer", "--from", "a", "--data", "other", "--mode", "probe", "--out", "b", *words)
    assert code == 0, err
    before, after = load_file("a/model.safetensors"), load_file("b/pretrained-0/model.safetensors")
    changed = {n for n in before if before[n].shape != after[n].shape or not torch.equal(before[n], after[n])}
    assert changed
    assert all(n.startswith(("fc.", "classifier.", "head.")) for n in changed)
    assert main(["train", "--model", name, "--data", "data", "--out", "a", *map(str, (*size, *words))]) == 0


def test_grey_images_keep_one_channel_if_asked(tmp_path, command) -> None:
    pytest.importorskip("timm")
    write_images(tmp_path / "data")
    words = ("train", "--model", "timm:test_resnet", "--data", "data", "--epochs", 1, "--channels", 1, "--out", "a")
    code, _, err = command(*words)
    assert code == 0, err
    metadata = checkpoint.read_metadata(Path("a"))
    assert metadata["options"] == {"in_chans": 1, "num_classes": 3}
    assert len(metadata["input"]["mean"]) == 1
    assert math.isfinite(metadata["accuracy"])
