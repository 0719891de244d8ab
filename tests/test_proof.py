"""A derivation proves itself: what Python does beside the graph is kept, or refused in one error; never lost."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import racecar

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """A linear layer, something in between, a linear layer."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def gradients(model: nn.Module, output: Tensor) -> list[Tensor]:
    model.zero_grad()
    output.square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# --- kept -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_are_trained(reentrant: bool) -> None:
    model = Two(lambda h: checkpoint(torch.tanh, h, use_reentrant=reentrant))
    rr = racecar.Racecar(model, X, weight=0.0)
    ours, theirs = gradients(model, rr(X)[0]), gradients(model, Two.forward(model, X))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


class Running(Two):
    """Updates a buffer in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("ema", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.no_grad():
            if self.way == "chained":
                self.ema.mul_(0.9).add_(h.mean(0), alpha=0.1)
            elif self.way == "statements":
                self.ema.mul_(0.9)
                self.ema.add_(h.mean(0), alpha=0.1)
            elif self.way == "copied":
                self.ema.copy_(0.9 * self.ema + 0.1 * h.mean(0))
            elif self.way == "in part":
                self.ema[:4].lerp_(h.mean(0)[:4], 0.1)
            else:
                self.ema = 0.9 * self.ema + 0.1 * h.mean(0)
        return self.b(torch.tanh(h - self.ema))


@pytest.mark.parametrize("way", ["chained", "statements", "copied", "in part", "assigned"])
def test_buffers_end_as_in_the_plain_model(way: str) -> None:
    torch.manual_seed(0)
    model, plain = Running(way), Running(way)
    plain.load_state_dict(model.state_dict())
    rr = racecar.Racecar(model, X)
    assert not model.ema.any()
    for x in (X, 2 * X, -X):
        torch.testing.assert_close(rr(x)[0], plain(x))
        torch.testing.assert_close(model.ema, plain.ema)


class Auxiliary(Two):
    """Keeps a loss, several values, a size, a word."""

    loss: Any = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.loss = h.square().mean()
        self.kept = {"hidden": h, "both": [h.mean(), h.std()]}
        self.batch = x.shape[0]
        self.word = "called"
        return self.b(torch.tanh(h))


def test_what_a_forward_keeps_on_itself_is_kept_at_every_call() -> None:
    model = Auxiliary()
    rr = racecar.Racecar(model, X)
    assert model.loss is None or type(model.loss) is Tensor
    for x in (3 * X, torch.randn(7, 6)):
        rr(x)
        h = model.a(x)
        torch.testing.assert_close(model.loss, h.square().mean())
        torch.testing.assert_close(model.kept["hidden"], h)
        torch.testing.assert_close(model.kept["both"][1], h.std())
        assert (model.batch, model.word) == (len(x), "called")
    (gradient,) = torch.autograd.grad(model.loss, model.a.weight)
    assert gradient.any()  # an auxiliary loss that is added to the others trains


def test_a_buffer_that_the_first_call_fills() -> None:
    class Lazy(Two):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("position", None)

        def forward(self, x: Tensor) -> Tensor:
            if self.position is None:
                self.position = torch.arange(6.0)
            return self.b(torch.tanh(self.a(x + self.position)))

    model = Lazy()
    rr = racecar.Racecar(model, X)
    torch.testing.assert_close(rr(X)[0], model(X))
    assert type(model(X)) is Tensor


# --- refused ----------------------------------------------------------------------------------------------------------


class Dropped(Two):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(h if self.draw() < 0.5 else 0 * h)


class Counting(Two):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Appending(Two):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.losses.append(h.square().mean())
        return self.b(torch.tanh(h))


class Remembering(Two):
    """Reads what the call before has kept."""

    def __init__(self) -> None:
        super().__init__()
        self.before = torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x)) + self.before
        self.before = h.mean(0).detach()
        return self.b(h)


class Hooked(nn.Module):
    """A skip connection through an attribute that a hook sets."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.down, self.out = nn.Linear(6, 8), nn.Linear(16, 3)
        self.kept = torch.zeros(5, 8)
        self.down.register_forward_hook(lambda module, inputs, output: setattr(self, "kept", output))
        if called:
            self(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.relu(self.down(x)), self.kept], 1))


def kept(model: nn.Module) -> dict[str, Any]:
    return {n: v[:] if isinstance(v, list) else v for n, v in vars(model).items() if not isinstance(v, dict)}


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "python's random numbers": (lambda: Dropped(random.random), "Python's random module.*torch"),
    "numpy's random numbers": (lambda: Dropped(np.random.rand), "numpy.random"),
    "a count": (Counting, r"self\.calls.*buffer"),
    "a list that grows": (Appending, r"self\.losses"),
    "a state of the call before": (Remembering, r"self\.before.*buffer"),
    "a hook's activation": (lambda: Hooked(True), r"self\.kept.*hook"),
    "a hook's activation, never called": (lambda: Hooked(False), r"self\.kept.*hook"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_graph_can_do_is_refused_and_the_model_stays_as_it_was(case: str) -> None:
    make, words = REFUSED[case]
    model = make()
    before = kept(model)
    drawn, arrays = random.getstate(), np.random.get_state()[1].copy()
    with pytest.raises(racecar.ExportError, match=f"(?s){words}"):
        racecar.Racecar(model, X)
    after = kept(model)
    assert after.keys() == before.keys()
    assert all(after[name] is value or after[name] == value for name, value in before.items())
    assert random.getstate() == drawn
    assert (np.random.get_state()[1] == arrays).all()
    assert type(model(X)) is Tensor


def test_without_verification_a_draw_is_one_for_all() -> None:
    rr = racecar.Racecar(Dropped(random.random), X, verify=False)
    assert len({float(rr(X)[0].detach().sum()) for _ in range(20)}) == 1
    assert rr.options.verify is False


def test_verification_calls_the_model_once_and_moves_nothing() -> None:
    calls: list[int] = []
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
    plain = model.forward
    model.forward = lambda x: calls.append(len(x)) or plain(x)  # type: ignore[method-assign,func-returns-value]
    state, random_state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    racecar.Racecar(model, X)
    verified = len(calls)
    racecar.Racecar(model, X, verify=False)
    assert verified - (len(calls) - verified) == 1
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in model.parameters())
