"""``--stream``: the same bytes as in memory, wherever a training was stopped; probes and shares of the labels too."""

import json
import os
from pathlib import Path

import pytest

from racecar.study.classification.training import Trainer
from racecar.study.images import fitting

from .conftest import write_images

TRAIN = ("train", "--model", "small_nets:net", "--epochs", 2, "--batch-size", 6, "--data", "data", "--racecar", 1e-3)
CROPS = ("--augmentation", "flip-crop", "--size", 10)
STREAM = ("--stream", "--decoders", 0)


def weights(folder: str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


def history(folder: str) -> list[dict]:
    content = json.loads(Path(folder, "model.json").read_text())["history"]
    return [{k: v for k, v in point.items() if k != "seconds"} for point in content]


@pytest.fixture
def held(data, command) -> str:
    code, _, err = command(*TRAIN, *CROPS, "--out", "held")
    assert code == 0, err
    assert "held in memory" in err
    return "held"


def stopped(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The next training is interrupted after so many steps."""
    real, count = Trainer._step, iter(range(1, 10**6))

    def step(self, *given):
        if next(count) == steps:
            os.kill(os.getpid(), 2)
        return real(self, *given)

    monkeypatch.setattr(Trainer, "_step", step)


def test_train_stopped_anywhere(held, command, monkeypatch) -> None:
    for steps in (2, 8):
        out = f"on-{steps}"
        with monkeypatch.context() as patch:
            stopped(patch, steps)
            code, _, err = command(*TRAIN, *CROPS, *STREAM, "--out", out)
        assert code == 130
        assert "decoded by this process while the network trains" in err
        assert "27 images are decoded first, for their mean and deviation" in err
        code, _, err = command(*TRAIN, *CROPS, "--decoders", 0, "--out", out)
        assert code == 0, err
        assert "while the network trains" in err  # as it began
        assert "decoded first" not in err
        assert weights(out) == weights(held)
        assert history(out) == history(held)


def test_begun_in_memory(held, command, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, 3)
        code, _, err = command(*TRAIN, *CROPS, "--out", "on")
    assert code == 130, err
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "room", lambda device: 0)  # others use it now
        code, _, err = command(*TRAIN, *CROPS, "--decoders", 0, "--out", "on")
    assert code == 0, err
    assert "0 bytes are free: decoded by this process while the network trains" in err
    assert weights("on") == weights(held)


def test_other_files_are_refused(data, command, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, 2)
        assert command(*TRAIN, *CROPS, *STREAM, "--out", "on")[0] == 130
    write_images(Path("other"), size=9)
    os.replace(Path("other/train/dog/3.png"), data / "train/dog/3.png")
    code, _, err = command(*TRAIN, *CROPS, *STREAM, "--out", "on")
    assert code == 2
    assert "the images are not those that on began with (27 + 27 then, 27 + 27 now, or other files)" in err


def test_transfer_probes_and_shares(held, data, command) -> None:
    transfer = (
        "transfer", "--from", held, "--model", "small_nets:net", "--data", "data", "--epochs", 1, "--batch-size", 6,
        "--labels", 0.5, "--seeds", 2,
    )  # fmt: skip
    for out, more in (("a", ()), ("b", STREAM)):
        code, _, err = command(*transfer, "--out", out, *more)
        assert code == 0, err
    for kind in ("pretrained-0", "pretrained-1"):
        assert weights(f"a/{kind}") == weights(f"b/{kind}")
    probes = [[json.loads(Path(out, f"probe-{s}.json").read_text()) for s in range(2)] for out in "ab"]
    assert probes[0] == probes[1]


def test_what_was_trained_on_the_way_is_measured_on_what_it_held_out(tmp_path, command, monkeypatch) -> None:
    write_images(tmp_path / "data", splits=("",), count=20)
    code, _, err = command(*TRAIN, *STREAM, "--out", "on")
    assert code == 0, err
    accuracy = json.loads(Path("on/model.json").read_text())["accuracy"]
    code, out, err = command("evaluate", "--from", "on", "--model", "small_nets:net", "--json", "found.json")
    assert code == 0, err
    found = json.loads(Path("found.json").read_text())
    assert found["images"] == 6
    assert f"{accuracy:.4f}" in out
    (tmp_path / "data" / "cat" / "new.png").write_bytes((tmp_path / "data" / "cat" / "1.png").read_bytes())
    code, _, err = command("evaluate", "--from", "on", "--model", "small_nets:net")
    assert code == 2
    assert "are not those that on was measured on" in err
