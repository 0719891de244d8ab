"""What a program was derived for is watched: a change derives anew, what comes back finds its program again."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import racecar

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """Reads attributes of its own, of an inner module that is none of torch's, and of a plain tuple."""

    class Inner(nn.Module):
        word = "tanh"

        def __init__(self) -> None:
            super().__init__()
            self.word = "tanh"

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) if self.word == "tanh" else torch.relu(x)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner, self.b = nn.Linear(6, 6), self.Inner(), nn.Linear(6, 6)
        self.alpha, self.flag, self.pair = 1.0, True, (1.0, 2.0)
        self.register_buffer("shift", None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(self.a(x)) * self.alpha * self.pair[0]
        h = h if self.shift is None else h + self.shift
        return self.b(h) if self.flag else -self.b(h)


def tie(model: Scaled) -> None:
    model.b.weight = model.a.weight


def load(model: Scaled) -> None:
    model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)


CHANGES: dict[str, Callable[[Scaled], object]] = {
    "a number": lambda m: setattr(m, "alpha", 0.5),
    "a flag": lambda m: setattr(m, "flag", False),
    "a tuple": lambda m: setattr(m, "pair", (3.0, 2.0)),
    "a word inside": lambda m: setattr(m.inner, "word", "relu"),
    "a buffer filled": lambda m: setattr(m, "shift", torch.ones(6)),
    "a bias removed": lambda m: setattr(m.a, "bias", None),
    "weights tied": tie,
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_seen(case: str) -> None:
    model = Scaled()
    rr = racecar.Racecar(model, X)
    CHANGES[case](model)
    torch.testing.assert_close(rr(X)[0], model(X))


@pytest.mark.parametrize("break_it", [load, lambda m: setattr(m.b, "weight", nn.Parameter(torch.randn(6, 6)))])
def test_broken_ties_are_seen(break_it: Callable[[Scaled], object]) -> None:
    model = Scaled()
    tie(model)
    rr = racecar.Racecar(model, X)
    break_it(model)
    with torch.no_grad():
        model.b.weight.add_(1.0)
    torch.testing.assert_close(rr(X)[0], model(X))


@pytest.mark.parametrize("case", CHANGES)
def test_a_copy_watches_its_own_model(case: str) -> None:
    rr = copy.deepcopy(racecar.Racecar(Scaled(), X))
    CHANGES[case](rr.model)
    torch.testing.assert_close(rr(X)[0], rr.model(X))


def test_what_comes_back_is_not_derived_again(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[int] = []
    derive = racecar.program.Program.derive

    def counted(*args: object, **kwargs: object) -> object:
        derived.append(1)
        return derive(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(racecar.program.Program, "derive", counted)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    rr = racecar.Racecar(model, X)
    for i in range(10):
        model[1].train(i % 2 == 0)
        torch.testing.assert_close(rr(X)[0], model(X))
    assert len(derived) == 2


def test_programs_are_kept_within_bounds() -> None:
    model = Scaled()
    rr = racecar.Racecar(model, X)
    for i in range(30):
        model.alpha = float(i)
        torch.testing.assert_close(rr(X)[0], model(X))
    assert sum(len(derived.programs) for derived in rr._palindromes[True]) <= 8
