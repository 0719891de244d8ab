"""The arguments of Racecar as one object: nothing is left out, nothing is taken by position, wrong ones are named."""

import inspect
import json
from typing import Any

import pytest
import torch
from torch import nn

import racecar
from racecar.options import Options

GIVEN: dict[str, Any] = {
    "layers": ["0", "2"], "start": "2", "weight": torch.tensor([0.1, 0.2]), "reduction": "sum",
    "input_range": torch.tanh,
    "norm_statistics": "shared", "decoder": None, "every": 4, "fraction": 0.5, "layerwise": True, "subset": 1,
    "checkpoint": False, "verify": False,
}  # fmt: skip


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def test_every_argument_of_the_constructor_is_an_option() -> None:
    arguments = inspect.signature(racecar.Racecar).parameters.values()
    keywords = {p.name: p.default for p in arguments if p.kind is p.KEYWORD_ONLY}
    assert keywords.keys() == Options().as_dict().keys() == GIVEN.keys()
    usual = Options().as_dict()
    assert usual | {"decoder": None} == keywords


def test_what_was_given_comes_back_as_json_holds_it() -> None:
    options = Options(**GIVEN | {"decoder": True})
    said = json.loads(json.dumps(options.as_dict()))
    assert said.pop("weight") == pytest.approx([0.1, 0.2])
    assert said == {
        "layers": ["0", "2"], "start": "2", "reduction": "sum", "input_range": "tanh", "norm_statistics": "shared",
        "decoder": True, "every": 4, "fraction": 0.5, "layerwise": True, "subset": 1, "checkpoint": False,
        "verify": False,
    }  # fmt: skip


def test_explain_and_repr_name_what_is_not_the_default() -> None:
    rr = racecar.Racecar(net(), torch.rand(8, 5), every=4, fraction=0.5, subset=1, checkpoint=True)
    for name, value in (("fraction", 0.5), ("subset", 1), ("checkpoint", True)):
        assert f"{name}={value}" in str(rr.explain())
        assert f"{name}={value}" in repr(rr)
    assert "one of 4 training calls" in str(rr.explain())
    plain = racecar.Racecar(net(), torch.rand(8, 5))
    assert "Options" not in str(plain.explain())
    assert plain.options.changed() == {}


def test_options_are_given_by_name_and_stay() -> None:
    with pytest.raises(TypeError):
        Options("conv")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Options().every = 2  # type: ignore[misc]


def test_other_weights_are_other_options() -> None:
    rr = racecar.Racecar(net(), torch.rand(8, 5), weight=0.1)
    other = rr.reweighted([0.1, 0.2])
    assert (rr.options.weight, other.options.weight) == (0.1, [0.1, 0.2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reduction", "max"), ("norm_statistics", "mine"), ("input_range", 3), ("every", 0), ("every", True),
        ("fraction", 0), ("fraction", 1.5), ("fraction", True), ("subset", 0), ("subset", 1.0), ("layerwise", 1),
        ("checkpoint", "yes"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_named_before_the_model_is_looked_at(name: str, value: object) -> None:
    with pytest.raises(racecar.ArgumentError, match=name):
        Options(**{name: value})


def test_an_ensemble_refuses_what_it_would_ignore() -> None:
    for given in ({"every": 2}, {"fraction": 0.5}, {"subset": 1}, {"checkpoint": True}, {"decoder": net()}):
        with pytest.raises(racecar.ArgumentError, match=f"takes no {next(iter(given))}="):
            racecar.Ensemble([net(), net()], torch.rand(8, 5), weights=[0.1, 0.1], **given)
