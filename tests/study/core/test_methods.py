"""The registry of ways of training, and what each says of itself."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from racecar.study.core import methods
from racecar.study.core.methods import Method, Need
from racecar.study.core.methods.plain import Std
from racecar.study.core.methods.rr import RR
from racecar.study.core.methods.srip import Ort
from racecar.study.core.variants import Variant


@pytest.fixture
def known():
    """What is registered in a test is forgotten after it."""
    before = methods.registered()
    yield
    for method in methods.registered():
        if method not in before:
            methods.unregister(method)


def made(family: str, **attributes: object) -> type[Method]:
    return type(family, (Method,), {"family": family, "color": "#000000", **attributes})


def test_what_is_there() -> None:
    assert {m.family for m in methods.registered()} == {
        *("Std", "StdC", "Early", "LS", "Proj", "Pre", "Reset", "Ort", "L2Init", "SP", "RR", "Dec")
    }


@pytest.mark.parametrize(
    ("family", "attributes", "said"),
    [
        ("Std", {}, "Std is registered already, or its names are read by Std"),
        ("STD", {}, "STD is registered already, or its names are read by Std"),
        ("RR3", {}, "RR3 is registered already, or its names are read by RR"),
        ("R", {"parse": classmethod(lambda cls, text: cls() if text.startswith("rr") else None)}, "read by RR"),
        ("Fast-RR", {}, "'Fast-RR' cannot be a method's name"),
        ("l2", {}, "'l2' cannot be a method's name"),
        ("L2", {"layered": True}, "'L2' cannot be a method's name"),
    ],
)
def test_names_that_are_taken_or_are_none_are_refused(known, family, attributes, said) -> None:
    before = methods.registered()
    with pytest.raises(ValueError, match=said):
        methods.register(made(family, **attributes))
    assert methods.registered() == before


def test_a_method_without_a_name_or_a_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="Red's color must be written #rrggbb, not 'red'"):
        methods.register(made("Red", color="red"))
    with pytest.raises(ValueError, match="Bare has no family and no color"):
        methods.register(type("Bare", (Method,), {}))


def test_a_new_method_is_read_by_every_name_and_forgotten_again(known) -> None:
    layered = methods.register(made("Swap", layered=True))
    whole = methods.register(made("Noisy"))
    assert [Variant.parse(t).name for t in ("swap4", "SWAP^4", "NOISY")] == ["Swap4", "Swap4", "Noisy"]
    assert (Variant("Swap4").label, Variant("Swap4").depth, Variant("Noisy").label) == ("Swap^4", 4, "Noisy")
    with pytest.raises(
        ValueError,
        match=r"use Ort, Std, Early, LS, Proj, Reset, StdC, L2Init, Noisy, Pre, SP, or RR or Dec or Swap",
    ):
        Variant.parse("swap")
    methods.unregister(layered)
    methods.unregister(whole)
    for name in ("Swap4", "Noisy"):
        with pytest.raises(ValueError, match=f"no variant '{name}'"):
            _ = Variant(name).label


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("Std", set()),
        ("StdC", {Need.LONGER}),
        ("Ort", {Need.REGULARISER}),
        ("RR6", {Need.REVERSE}),
        ("RR6s", {Need.REVERSE, Need.ARGUMENTS}),
        ("RR6-every2", {Need.REVERSE, Need.ARGUMENTS}),
        ("Dec6", {Need.REVERSE, Need.DECODER}),
        ("RR6-pooled", {Need.REVERSE, Need.REMEDY}),
        ("RR6-end", {Need.REVERSE, Need.REMEDY}),
        ("RR6-fade", {Need.REVERSE, Need.REMEDY}),
        ("LS", {Need.RECIPE}),
        ("Early", {Need.SHORTER}),
        ("Proj", {Need.PROJECTOR}),
        ("Pre", {Need.PRETRAINING}),
        ("SP", {Need.BETWEEN}),
        ("Reset", {Need.BETWEEN}),
    ],
)
def test_what_a_method_needs_of_a_study_follows_from_what_it_does(name, needs) -> None:
    method = Variant(name).method
    assert method.needs == needs
    assert method.has_weight == (Need.REVERSE in needs)


def test_what_a_study_takes_in_words() -> None:
    assert methods.forms([Need.LONGER, Need.REVERSE, Need.DECODER], 6) == "Std, StdC, RR1 to RR6, Dec1 to Dec6"
    assert methods.forms([], 6) == "Std"
    assert methods.forms([], 6, (Ort,)) == "Std, Ort"


def test_a_cheaper_way_costs_its_share_of_the_reverse_pass() -> None:
    cost = {name: Variant(name).method.cost for name in ("Std", "RR3", "RR3-every4", "RR3-every2-fraction0.5")}
    assert cost == pytest.approx({"Std": 1, "RR3": 2.2, "RR3-every4": 1.3, "RR3-every2-fraction0.5": 1.3})


def test_numbers_of_layers_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="RR2-subset3: of 2 compared layers no 3 can be drawn"):
        Variant.parse("RR2-subset3")
    with pytest.raises(ValueError, match="RR needs a number of compared layers"):
        RR()
    with pytest.raises(ValueError, match="Std takes no number of compared layers"):
        Std(3)


def test_a_method_may_have_a_hyper_parameter_of_its_own_in_its_name(known) -> None:
    @methods.register
    @dataclass(frozen=True)
    class Warm(Method):
        family, color = "Warm", "#ff0000"

        epochs: int = 1

        @classmethod
        def parse(cls, text: str) -> "Warm | None":
            return cls(epochs=int(text[4:])) if text[:4] == "warm" and text[4:].isdigit() else None

        @property
        def suffix(self) -> str:
            return str(self.epochs)

    assert Variant.parse("warm3").method == Warm(epochs=3)
    assert Variant.parse("warm3").name == "Warm3"


def test_every_method_that_is_tuned_has_five_values_and_says_what_they_are() -> None:
    for method in methods.registered():
        if method.family not in ("Std", "StdC", "Reset"):
            assert len(method.strengths) == 5, method.family
            assert sorted(method.strengths) == list(method.strengths)
            assert method.unit
    assert methods.Strength(0.5).weight == methods.Strength(0.5).ort_weight == 0.5


def test_what_a_strength_changes() -> None:
    method = {name: Variant(name).method for name in ("Std", "LS", "Early", "Proj", "Pre", "RR3", "RR3-end-fade")}
    assert method["LS"].recipe(0.2) == {"label_smoothing": 0.2}
    assert (method["Early"].stop(0.2), method["Proj"].projector(64.0), method["Pre"].pretraining(3.0)) == (0.2, 64, 3)
    assert (method["RR3"].until(), method["RR3"].fading(3)) == (1.0, (1.0, 1.0, 1.0))
    assert (method["RR3-end-fade"].until(), method["RR3-end-fade"].fading(3)) == (2 / 3, (1.0, 0.5, 0.25))
    assert method["RR3-end-fade"].arguments == {"layers": 3}


def test_l2_init_is_the_squared_distance_from_the_weights_of_the_start() -> None:
    model = nn.Linear(2, 1)
    penalty = Variant("L2Init").method.regulariser(model, methods.Strength(0.5))
    assert penalty is not None
    assert penalty(model).item() == 0
    with torch.no_grad():
        model.weight += torch.tensor([[3.0, 4.0]])
        model.bias += 1
    assert penalty(model).item() == pytest.approx(0.5 * (9 + 16 + 1))


def test_what_happens_to_weights_between_tasks() -> None:
    before = {"fc.weight": torch.tensor([2.0]), "head.weight": torch.tensor([4.0])}
    fresh = {"fc.weight": torch.tensor([1.0]), "head.weight": torch.tensor([-1.0])}

    def after(name: str, strength: float) -> list[float]:
        return [float(w) for w in Variant(name).method.between(before, fresh, "head.", strength).values()]

    assert after("Std", 0.25) == [2.0, 4.0]
    assert after("SP", 0.25) == [1.75, 2.75]
    assert after("Reset", 0.25) == [2.0, -1.0]
