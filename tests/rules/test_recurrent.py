"""Recurrent layers against the same layers unrolled by hand from nn.Linear, which the library's other rules reverse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import racecar

KINDS = (nn.RNN, nn.GRU, nn.LSTM)


@torch.library.custom_op("test_recurrent::plus_gated_bias", mutates_args=())
def plus_gated_bias(a: Tensor, r: Tensor, bias: Tensor) -> Tensor:
    """a + r ⊙ b: in a GRU's first step the reset gate meets nothing but the bias."""
    return a + r * bias


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:])


def _gradients(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, bias = ctx.saved_tensors
    return gradient, gradient * bias, (gradient * r).sum(0)


plus_gated_bias.register_fake(lambda a, r, bias: torch.empty_like(a))
plus_gated_bias.register_autograd(_gradients, setup_context=_keep)


@pytest.fixture(autouse=True, scope="module")
def _gates_are_coefficients() -> None:
    racecar.register_reverse(
        torch.ops.test_recurrent.plus_gated_bias.default, lambda estimate, a, r, bias: (estimate - r * bias, None, None)
    )


class Cell(nn.Module):
    """One step written out; the first has no state, so that no product with zeros is mirrored."""

    def __init__(self, rnn: nn.RNNBase, suffix: str) -> None:
        super().__init__()
        self.kind, self.nonlinearity = type(rnn), getattr(torch, getattr(rnn, "nonlinearity", "tanh"))
        for part in ("ih", "hh", "hr") if rnn.proj_size else ("ih", "hh"):
            linear = nn.Linear(1, 1, bias=False)
            linear.weight = getattr(rnn, f"weight_{part}_{suffix}")  # the same parameters
            if rnn.bias and part != "hr":
                linear.bias = getattr(rnn, f"bias_{part}_{suffix}")
            setattr(self, part, linear)
        self.projected = rnn.proj_size > 0

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        h = x.new_zeros(1, self.hh.weight.shape[1]) if state is None else state[0]
        a, b = self.ih(x), self.hh(h)
        if self.kind is nn.RNN:
            return (self.nonlinearity(a + b),)
        if self.kind is nn.LSTM:
            i, f, g, o = (a + b).chunk(4, -1)
            c = torch.sigmoid(i) * torch.tanh(g)
            if state is not None:
                c = torch.sigmoid(f) * state[1] + c
            h = torch.sigmoid(o) * torch.tanh(c)
            return self.hr(h) if self.projected else h, c
        (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, -1), b.chunk(3, -1)
        r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
        if state is not None:
            return ((1 - z) * torch.tanh(a_n + r * b_n) + z * h,)
        if self.hh.bias is None:
            return ((1 - z) * torch.tanh(a_n),)
        return ((1 - z) * torch.tanh(torch.ops.test_recurrent.plus_gated_bias(a_n, r, b_n[0])),)


class Unrolled(nn.Module):
    """Layers of cells, each from a whole sequence to a whole sequence; (N, T, …)."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        rnn = fused.rnn
        self.directions = 2 if rnn.bidirectional else 1
        self.cells = nn.ModuleDict()
        for k, d in itertools.product(range(rnn.num_layers), range(self.directions)):
            self.cells[f"{k}{'r' if d else ''}"] = Cell(rnn, f"l{k}{'_reverse' if d else ''}")
        self.layers, self.used, self.head = rnn.num_layers, fused.used, fused.head

    def forward(self, x: Tensor) -> Tensor:
        y = x
        h_n, c_n = [], []
        for k in range(self.layers):
            sequences = []
            steps = [y[:, t] for t in range(x.shape[1])]
            for d in range(self.directions):
                outputs, state = [], None
                for step in reversed(steps) if d else steps:
                    state = self.cells[f"{k}{'r' if d else ''}"](step, state)
                    outputs.append(state[0])
                h_n.append(state[0])
                c_n.append(state[-1])
                sequences.append(torch.stack(outputs[::-1] if d else outputs, 1))
            y = torch.cat(sequences, -1) if self.directions == 2 else sequences[0]
        return self.head(used(self.used, y, h_n, c_n))


class Fused(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], used: str, **options) -> None:
        super().__init__()
        self.rnn = kind(3, 4, **options)
        directions = 2 if self.rnn.bidirectional else 1
        units = self.rnn.proj_size or 4
        width = {"h_n": units, "c_n": 4, "states": 8 + 4 * directions}.get(used, units * directions)
        self.used, self.head = used, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(x)
        h_n, c_n = state if isinstance(state, tuple) else (state, state)
        if not self.rnn.batch_first:
            y = y.transpose(0, 1)
        return self.head(used(self.used, y, h_n, c_n))


def used(what: str, y: Tensor, h_n, c_n) -> Tensor:
    """What the head reads."""
    if what == "states":
        return torch.cat([h_n[-1], c_n[-1], y[:, 0]], -1)
    return {"all": lambda: y, "last": lambda: y[:, -1], "first": lambda: y[:, 0]}.get(
        what, lambda: (h_n if what == "h_n" else c_n)[-1]
    )()


def penalty_and_gradients(rr: racecar.Racecar, x: Tensor, compared: set[str], parameters: list[Tensor]):
    weight = [float(name.split("#")[0] in compared) for name in rr.layers]
    assert sum(weight) > 0
    rr.lambdas = torch.tensor(weight, dtype=torch.float64)
    _, penalty = rr(x)
    return penalty, torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)


def equal_to_unrolled(kind, used: str, steps: int, **options) -> None:
    torch.manual_seed(0)
    fused = Fused(kind, used, **options).double()
    unrolled = Unrolled(fused)
    x = torch.randn(2, steps, 3, dtype=torch.float64)
    given = x if fused.rnn.batch_first else x.transpose(0, 1)
    torch.testing.assert_close(unrolled(x), fused(given))
    ours = racecar.Racecar(fused, given, layers="all", start="head", reduction="sum")
    theirs = racecar.Racecar(unrolled, x, layers="all", start="head", reduction="sum")
    # Of a direction from which one step is used, the unrolled module compares the input of that step alone.
    count = {name: sum(f"cells.{name}.ih" == m.split("#")[0] for m in theirs.layers) for name in unrolled.cells}
    whole = [name for name, n in count.items() if n == steps or (n and unrolled.directions == 1)]
    parameters = list(fused.parameters())
    found = penalty_and_gradients(ours, given, {f"rnn.{n.replace('r', '.reverse')}" for n in whole}, parameters)
    expected = penalty_and_gradients(theirs, x, {f"cells.{n}.ih" for n in whole}, parameters)
    assert expected[0] > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("used", "steps", "options"),
    [
        ("all", 3, {}),
        ("last", 1, {}),
        ("last", 3, {"num_layers": 2, "batch_first": True}),
        ("h_n", 1, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
        ("h_n", 3, {"bidirectional": True, "bias": False}),
        ("all", 3, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ],
    ids=str,
)
def test_equals_the_unrolled_layer(kind, used: str, steps: int, options: dict) -> None:
    equal_to_unrolled(kind, used, steps, **options)


def test_equals_the_unrolled_layer_with_relu() -> None:
    equal_to_unrolled(nn.RNN, "last", 3, nonlinearity="relu", num_layers=2)


def test_equals_the_unrolled_layer_with_projection() -> None:
    equal_to_unrolled(nn.LSTM, "last", 3, proj_size=2, num_layers=2, batch_first=True)


@pytest.mark.parametrize("used", ["c_n", "states"])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_the_last_cell_state_is_a_start_of_the_way_back(used: str, options: dict) -> None:
    equal_to_unrolled(nn.LSTM, used, 3, **options)


def test_one_linear_step_is_the_linear_rule() -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, nonlinearity="relu", batch_first=True).double()
    with torch.no_grad():
        rnn.bias_ih_l0 += 20  # where ReLU is the identity
    x = torch.randn(2, 1, 3, dtype=torch.float64)
    _, regenerated = racecar.Racecar(rnn, x).reconstruct(x)["0"]
    expected = (rnn(x)[0] - rnn.bias_ih_l0 - rnn.bias_hh_l0) @ rnn.weight_ih_l0
    torch.testing.assert_close(regenerated, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_earlier_steps_come_back_from_one_step(kind) -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(3, 40, batch_first=True), nn.Linear(40, 2)  # wide: ones would saturate

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, 4])

    x = torch.randn(2, 30, 3)
    _, regenerated = racecar.Racecar(Middle(), x, layers=["rnn"], start="head").reconstruct(x)["rnn.0"]
    assert regenerated[:, :5].isfinite().all()
    assert regenerated[:, 5:].isnan().all()
