"""Products of two activations: gates and other coefficients, and what only looks like a product."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar


class Between(nn.Module):
    """A function of one value between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(x: Tensor) -> Tensor:
    u = x.mean(-1, keepdim=True)
    s = (x - u).pow(2).mean(-1, keepdim=True)
    return (x - u) / torch.sqrt(s + 1e-6)


def written(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0.0
    return y


def bound(x: Tensor, at: float) -> Tensor:
    return torch.full((6,), at, dtype=x.dtype)


SPELLED_OUT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "silu": (lambda x: x * torch.sigmoid(x), F.silu),
    "gelu": (lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), F.gelu),
    "gelu, tanh": (
        lambda x: 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3)))),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "square": (lambda x: x * x, torch.square),
    "leaky relu": (lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
    "leaky relu, the larger": (lambda x: torch.maximum(x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
    "elu": (lambda x: torch.where(x <= 0, torch.expm1(x), x), F.elu),
    "elu, by two conditions": (lambda x: torch.where((x > 0) & (x > -1), x, x.exp() - 1), F.elu),
    "relu, filled": (lambda x: x.masked_fill(x < 0, 0.0), F.relu),
    "relu, written": (written, F.relu),
    "relu, times one or zero": (lambda x: x * (x > 0), F.relu),
    "relu, times one or zero as a number": (lambda x: x * (x > 0).to(x.dtype), F.relu),
    "relu, times a choice of numbers": (lambda x: torch.where(x > 0, 1.0, 0.0).to(x.dtype) * x, F.relu),
    "hard shrink": (lambda x: torch.where(x.abs() > 0.2, x, 0.0), lambda x: F.hardshrink(x, 0.2)),
    "hard tanh": (
        lambda x: torch.minimum(torch.maximum(x, bound(x, -0.2)), bound(x, 0.3)),
        lambda x: F.hardtanh(x, -0.2, 0.3),
    ),
    "rms norm": (rms_norm, lambda x: F.rms_norm(x, (6,), eps=1e-6)),
    "layer norm": (layer_norm, lambda x: F.layer_norm(x, (6,), eps=1e-6)),
}


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_an_activation_or_norm_spelled_out_is_mirrored_like_the_one_in_torch(name: str) -> None:
    written, known = SPELLED_OUT[name]
    torch.manual_seed(0)
    one = Between(written).double()
    torch.manual_seed(0)
    other = Between(known).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    _, a = racecar.Racecar(one, x)(x)
    _, b = racecar.Racecar(other, x)(x)
    torch.testing.assert_close(a, b)


def rounded(x: Tensor) -> Tensor:
    return x + (torch.round(4 * x) / 4 - x).detach()


def rounded_last(x: Tensor) -> Tensor:
    return torch.round(4 * x) / 4 - x.detach() + x


def rounded_before(x: Tensor) -> Tensor:
    return torch.round(4 * x) / 4 + x - x.detach()


CODES = torch.linspace(-1, 1, 30, dtype=torch.float64).sin().view(5, 6)


def coded(x: Tensor) -> Tensor:
    """The nearest of five codes, as in a VQ-VAE."""
    code = CODES[torch.cdist(x, CODES).argmin(-1)]
    return x + (code - x).detach()


@pytest.mark.parametrize("quantise", [rounded, rounded_last, rounded_before, coded], ids=lambda f: f.__name__)
def test_a_straight_through_estimator_is_the_quantisation(quantise: Callable[[Tensor], Tensor]) -> None:
    """Nothing on the way back; it maps the estimate to its codes, with the same gradient past them."""
    torch.manual_seed(0)
    net, x = Between(quantise).double(), 3 * torch.randn(5, 4, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    h = net.first(x)
    right = quantise((net(x) - net.last.bias) @ net.last.weight)
    back = (right - net.first.bias) @ net.first.weight
    expected = 0.5 * ((quantise(h) - right) ** 2).mean() + 0.5 * ((x - back) ** 2).mean()
    torch.testing.assert_close(penalty, expected)
    gradients = torch.autograd.grad(penalty, list(net.parameters()))
    for got, wanted in zip(gradients, torch.autograd.grad(expected, list(net.parameters())), strict=True):
        torch.testing.assert_close(got, wanted)


def test_of_a_code_that_depends_on_more_the_step_to_it_is_subtracted() -> None:
    class Coded(Between):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            code = torch.round(self.other(x))
            return self.last(h + (code - h).detach())

    torch.manual_seed(0)
    net, x = Coded(torch.tanh), torch.randn(5, 4, dtype=torch.float64)
    net.other = nn.Linear(4, 6)
    net.double()
    rr = racecar.Racecar(net, x)
    assert rr.layers == ("first", "last")
    estimate = (net(x) - net.last.bias) @ net.last.weight
    hidden = estimate - (torch.round(net.other(x)) - net.first(x))
    torch.testing.assert_close(rr.reconstruct(x)["first"][1], (hidden - net.first.bias) @ net.first.weight)


class Gated(nn.Module):
    """value ⊙ gate, written in either order."""

    def __init__(self, gate: Callable[[Tensor], Tensor], first: bool) -> None:
        super().__init__()
        self.value, self.gate, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.squash, self.first = gate, first

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.value(x), self.squash(self.gate(x))
        return self.last(gate * value if self.first else value * gate)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("squash", [torch.sigmoid, F.gelu, lambda x: F.dropout(torch.tanh(x), 0.0)])
def test_the_gate_is_the_coefficient_and_nothing_comes_back_to_it(
    squash: Callable[[Tensor], Tensor], first: bool
) -> None:
    torch.manual_seed(0)
    net, x = Gated(squash, first).double(), torch.randn(5, 4, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    assert rr.layers == ("value", "last")
    h = (net(x) - net.last.bias) @ net.last.weight
    gate = squash(net.gate(x))
    pairs = rr.reconstruct(x)
    torch.testing.assert_close(pairs["last"][1], h)
    torch.testing.assert_close(pairs["value"][1], (h * gate - net.value.bias) @ net.value.weight)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        scale = torch.sigmoid(self.fc(F.adaptive_avg_pool2d(h, 1)))
        return self.last(scale * h)


def test_squeeze_and_excitation_multiplies_by_the_forward_gate() -> None:
    torch.manual_seed(0)
    net, x = SqueezeExcite().double(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    assert rr.layers == ("conv", "last")
    h = F.relu(net.conv(x))
    scale = torch.sigmoid(net.fc(h.mean((2, 3), keepdim=True)))
    back = F.conv_transpose2d(net(x) - net.last.bias.view(-1, 1, 1), net.last.weight) * scale
    _, right = rr.reconstruct(x)["conv"]
    torch.testing.assert_close(
        right, F.conv_transpose2d(back - net.conv.bias.view(-1, 1, 1), net.conv.weight, padding=1)
    )


class DropsBranches(nn.Module):
    """Stochastic depth as timm and torchvision write it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        noise = x.new_empty((x.shape[0], 1)).bernoulli_(0.5)
        noise.div_(0.5)
        h = torch.tanh(self.a(x))
        return h + self.b(h) * noise


def test_stochastic_depth_is_walked_past_like_dropout() -> None:
    torch.manual_seed(0)
    net, x = DropsBranches().double(), torch.randn(6, 4, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    torch.manual_seed(1)
    pairs = rr.reconstruct(x)
    torch.manual_seed(1)
    end = net(x)
    h = torch.tanh((end + (end - net.b.bias) @ net.b.weight) / 2)
    torch.testing.assert_close(pairs["a"][1], (h - net.a.bias) @ net.a.weight)


class Hyper(nn.Module):
    """A layer whose weights the network computes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.maker, self.last = nn.Linear(4, 5), nn.Linear(4, 30), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(x.mean(0)).view(6, 5)
        return self.last(F.linear(self.a(x), weight))


def test_computed_weights_are_a_coefficient() -> None:
    torch.manual_seed(0)
    net, x = Hyper().double(), torch.randn(3, 4, dtype=torch.float64)
    pairs = racecar.Racecar(net, x).reconstruct(x)
    weight = net.maker(x.mean(0)).view(6, 5)
    back = (net(x) - net.last.bias) @ net.last.weight @ weight
    torch.testing.assert_close(pairs["a"][1], (back - net.a.bias) @ net.a.weight)
