"""The same as ``racecar train`` and ``transfer`` in Python: what comes back is what the files hold."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import load_file

import racecar.study
from racecar.study import Mirror, Recipe, Source, Stopped, StudyError, train, transfer

from .conftest import write_images
from .test_commands import TRAIN

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=1e-2)


def test_train_is_the_command(data, command) -> None:
    trained = train("small_nets:net", "data", out="p", racecar=1e-2, recipe=RECIPE)
    assert command(*TRAIN)[0] == 0
    assert trained.weights.read_bytes() == Path("a/model.safetensors").read_bytes()
    about = json.loads(Path("p/model.json").read_text())
    assert trained.accuracy == about["accuracy"] == trained.history[-1].accuracy
    assert trained.classes == ("cat", "dog", "owl")
    assert [p.loss for p in trained.history] == [p["loss"] for p in about["history"]]
    assert not trained.before
    assert train("small_nets:net", Path("data"), out="p", racecar=Mirror(1e-2), recipe=RECIPE).before
    # The command goes on in the function's folder.
    code, out, err = command(*TRAIN, "--out", "p")
    assert code == 0, err
    assert "p is finished: nothing to do" in out
    loaded = trained.load("small_nets:net").state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in load_file("p/model.safetensors").items())
    with pytest.raises(StudyError, match="repeat its name"):
        trained.load()
    figure = trained.curves()
    lines = {line.get_label(): list(line.get_ydata()) for axis in figure.axes for line in axis.get_lines()}
    assert lines["validation"] == [p.accuracy for p in trained.history]
    assert lines["penalty, λ included"] == [p.penalty for p in trained.history]
    plt.close(figure)


def test_transfer_takes_what_train_gives(data, tmp_path) -> None:
    trained = train("small_nets:net", "data", out="p", recipe=RECIPE)
    write_images(tmp_path / "other", classes=("x", "y"), count=12, seed=1)
    words = {"model": "small_nets:net", "scratch": True, "seeds": 2, "recipe": RECIPE, "out": "t"}
    found = transfer(trained, Source("other", validation="test"), **words)
    written = json.loads(Path("t/transfer.json").read_text())
    assert found.accuracy == written["accuracy"]
    assert found.summary["p_AB − p_B"].mean == written["summary"]["p_AB − p_B"]["mean"]
    assert [t.accuracy for t in found.scratch] == found.accuracy["p_B"]
    assert [t.folder for t in found.pretrained] == [Path("t/pretrained-0"), Path("t/pretrained-1")]
    assert not found.before
    assert transfer(trained, Source("other", validation="test"), **words).before


def test_stopped_it_says_so_as_python_does(data, monkeypatch) -> None:
    from racecar.study.core.processes import Stopper

    monkeypatch.setattr(Stopper, "__call__", lambda self: True)
    with pytest.raises(Stopped, match="goes on from here") as stopped:
        train("small_nets:net", "data", out="p", recipe=RECIPE)
    assert isinstance(stopped.value, KeyboardInterrupt)
    monkeypatch.undo()


def test_everything_of_the_package_is_there_and_nothing_else() -> None:
    assert all(callable(getattr(racecar.study, name)) for name in racecar.study.__all__)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = racecar.study.other
