"""How phase II begins, against closed forms."""

import pytest
import torch

from racecar.study.core.restart import restart

LAYERS = ["one", "two", "three"]


def weights(value: float) -> dict[str, torch.Tensor]:
    shapes = {"one.weight": (3, 2), "one.bias": (3,), "two.weight": (2, 3), "three.weight": (4, 2), "three.bias": (4,)}
    return {k: torch.full(s, value) for k, s in shapes.items()}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("keep", {"one": 4.0, "two": 4.0, "three": 4.0}),
        ("head", {"one": 4.0, "two": 4.0, "three": -1.0}),
        ("two", {"one": 4.0, "two": -1.0, "three": -1.0}),
        ("shrink", {"one": 1.5, "two": 1.5, "three": 1.5}),
    ],
)
def test_every_way_has_its_closed_form(how, expected) -> None:
    given, fresh = weights(4.0), weights(-1.0)
    found = restart(given, fresh, how, LAYERS)
    assert list(found) == list(given)
    for name, value in found.items():
        assert value.eq(expected[name.partition(".")[0]]).all()
    assert all(v.eq(4.0).all() for v in given.values())
    assert all(v.eq(-1.0).all() for v in fresh.values())


def test_a_layer_whose_name_begins_as_anothers_is_left_alone() -> None:
    given, fresh = ({f"fc{m}.weight": torch.full((2,), v) for m in (10, 1)} for v in (4.0, -1.0))
    found = restart(given, fresh, "head", ["fc10", "fc1"])
    assert found["fc10.weight"].eq(4.0).all()
    assert found["fc1.weight"].eq(-1.0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w: restart(w, w, "last", LAYERS), "'last': use keep, head, two, shrink"),
        (lambda w: restart(w, {**w, "one.bias": torch.zeros(4)}, "keep", LAYERS), r"differ in one\.bias"),
        (lambda w: restart(w, {k: v for k, v in w.items() if k != "two.weight"}, "keep", LAYERS), r"in two\.weight"),
        (lambda w: restart(n := {**w, "n": torch.tensor(3)}, n, "shrink", LAYERS), "n: counts are no weights"),
        (lambda w: restart(w, w, "two", ["three"]), "draws 2 layers anew, the network has 1: three"),
        (lambda w: restart(w, w, "head", ["one", "four"]), "no weights of 'four'"),
    ],
)
def test_what_cannot_be_done_is_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make(weights(1.0))
