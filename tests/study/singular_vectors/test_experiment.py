"""First layers on data whose directions are known."""

import json
from typing import Any

import pytest
import torch

from racecar import analysis
from racecar.study.core.variants import Variant
from racecar.study.singular_vectors import data, experiment
from racecar.study.singular_vectors.kept import Measured

SHORT = ["--seeds", "2", "--steps", "3", "--variants", "Std", "RR1"]


def test_peaks_are_where_their_class_says_under_hats() -> None:
    signals, classes = data.peaks(100, 0)
    assert signals.shape == (100, 40)
    halves = signals.view(100, 2, 20).amax(2)
    assert torch.equal(halves.argmax(1), classes)
    first = analysis.principal_directions(signals, 1)[:, 0]
    assert first[10] * first[30] < 0  # the difference of the classes varies most


def test_two_images_are_a_zero_and_a_one() -> None:
    images = torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2)
    found, classes = data.two_images(images, torch.tensor([1, 1, 0, 0, 1]))
    assert torch.equal((found * 255).round().long(), images[[2, 0]].flatten(1).long())
    assert classes.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["Std", "Ort", "Pre", "Dec1", "RR2"])
def test_every_method_learns_the_peaks(name) -> None:
    (case,) = experiment.cases(None)
    strength = (Variant(name).method.strengths or (0.0,))[0]
    found = experiment.train(case, Variant(name), strength, 0, steps=250)
    assert found.accuracy == 1
    assert 0 < found.angle < 90
    assert found == experiment.train(case, Variant(name), strength, 0, steps=250)


def test_a_strong_racecar_loss_turns_the_layer_towards_the_data() -> None:
    """A linear layer that its own transpose undoes best is the data's principal subspace (Baldi & Hornik 1989)."""
    (case,) = experiment.cases(None)
    plain = experiment.train(case, Variant("Std"), 0.0, 0, steps=1000).angle
    assert experiment.train(case, Variant("RR1"), 10.0, 0, steps=1000).angle < plain - 10


def test_the_table_says_what_it_was_made_by(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment.main([*SHORT, "--table", "t.md"])
    text = (tmp_path / "t.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert "`python -m racecar.study.singular_vectors.experiment --seeds 2 --steps 3 --variants Std RR1" in text
    assert "| Std | — | " in text
    assert "| RR¹ | 10 (ratio) | " in text
    assert "n = 2; 3 steps" in text


def test_stopped_it_goes_on_and_trains_nothing_twice(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert experiment.main([*SHORT, "--out", "whole"]) == 0
    whole = capsys.readouterr().out.partition("\n\n|")[2]
    train, trained = experiment.train, 0

    def interrupted(*arguments: Any) -> Measured:
        nonlocal trained
        trained += 1
        if trained == 6:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(experiment, "train", interrupted)
    assert experiment.main([*SHORT, "--out", "s"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert experiment.main([*SHORT, "--out", "s"]) == 0
    assert trained == 12 + 1
    assert capsys.readouterr().out.partition("\n\n|")[2] == whole


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "0"], "--seeds and --steps must be at least 1"),
        (["--variants", "RR0"], "RR0"),
        (["--data", "./nowhere"], "./nowhere does not exist"),
        (["--steps", "4"], "s holds networks of other steps or data: choose another --out"),
        (["--out", "damaged"], "damaged/measured.json"),
        (["--out", "wrong"], "seed 0 is 'a', no angle and accuracy: delete it to train it again"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, monkeypatch, more, said) -> None:
    monkeypatch.chdir(tmp_path)
    (case,) = experiment.cases(None)
    network = {"two classes of peaks, k = 3: Std, 0, seed 0": [45.0, 1.0]}
    content = {"steps": 3, "data": {case.title: float(case.inputs.double().sum())}, "networks": network}
    for name, written in (
        ("s", json.dumps(content)),
        ("damaged", json.dumps(content)[:-9]),
        ("wrong", json.dumps(content | {"networks": dict.fromkeys(network, "a")})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "measured.json").write_text(written)
    assert experiment.main([*SHORT, "--out", "s", *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
