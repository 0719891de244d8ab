"""Activations: nothing on the way back; the estimate of a layer's input goes through the activation before it."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten

ACTIVATIONS: list[Any] = [
    nn.CELU(0.7),
    nn.ELU(0.5),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Hardshrink(0.2),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    nn.Hardtanh(-0.1, 0.2),
    nn.LeakyReLU(0.2),
    nn.LogSigmoid(),
    nn.LogSoftmax(-1),
    nn.Mish(),
    nn.PReLU(),
    nn.PReLU(5),
    nn.ReLU(),
    nn.ReLU6(),
    nn.SELU(),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Softmax(1),
    nn.Softplus(2.0, 1.0),
    nn.Softshrink(0.2),
    nn.Softsign(),
    nn.Tanh(),
    nn.Tanhshrink(),
    nn.Threshold(0.1, -0.2),
]
IN_PLACE: list[Any] = [
    nn.CELU(inplace=True),
    nn.ELU(inplace=True),
    nn.Hardsigmoid(inplace=True),
    nn.Hardswish(inplace=True),
    nn.Hardtanh(-0.1, 0.2, inplace=True),
    nn.LeakyReLU(inplace=True),
    nn.Mish(inplace=True),
    nn.ReLU(inplace=True),
    nn.ReLU6(inplace=True),
    nn.SELU(inplace=True),
    nn.SiLU(inplace=True),
    nn.Threshold(0.1, -0.2, inplace=True),
]


def build(activation: nn.Module) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)).double()
    return model, torch.randn(6, 4, dtype=torch.float64) * 2


def check(model: nn.Sequential, x: Tensor, function: Any) -> None:
    """L'₂ is the activation of the raw adjoint, L'₁ the adjoint of L'₂: the activation itself is not reversed."""
    rr = racecar.Racecar(model, x)
    pairs = rr.reconstruct(x)
    first, last = model[0], model[2]
    raw = (model(x) - last.bias) @ last.weight
    torch.testing.assert_close(pairs["2"][1], function(raw))
    torch.testing.assert_close(pairs["2"][0], function(first(x)))
    torch.testing.assert_close(pairs["0"][1], (function(raw) - first.bias) @ first.weight)
    assert not torch.allclose(function(raw), raw)
    _, penalty = rr(x)
    penalty.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model[0].parameters())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_of_torch_nn(activation: nn.Module) -> None:
    model, x = build(activation)
    check(model, x, lambda t: activation(t.clone()))


@pytest.mark.parametrize("activation", IN_PLACE, ids=str)
def test_in_place_activations(activation: nn.Module) -> None:
    model, x = build(activation)
    check(model, x, lambda t: activation(t.clone()))


@pytest.mark.xfail(strict=True, reason="exported as neg and softmax; the sign is reversed as a linear operation")
def test_softmin() -> None:
    """softmin(x) = softmax(−x): the sign would belong to the activation, not to the way back."""
    model, x = build(nn.Softmin(-1))
    check(model, x, lambda t: F.softmin(t, -1))


def test_softmax2d() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Softmax2d(), nn.Conv2d(3, 2, 1)).double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    raw = F.conv_transpose2d(model(x) - model[2].bias.view(-1, 1, 1), model[2].weight)
    torch.testing.assert_close(pairs["2"][1], raw.softmax(1))


def test_rrelu_has_its_mean_slope_on_the_way_back() -> None:
    model, x = build(nn.RReLU(0.1, 0.5))
    rr = racecar.Racecar(model, x)
    torch.manual_seed(0)
    pairs = rr.reconstruct(x)
    torch.manual_seed(0)
    output = model(x)  # the same random slopes forward
    raw = (output - model[2].bias) @ model[2].weight
    torch.testing.assert_close(pairs["2"][1], F.leaky_relu(raw, 0.3))
    model.eval()
    rr.eval()
    check_eval = rr.reconstruct(x)
    raw = (model(x) - model[2].bias) @ model[2].weight
    torch.testing.assert_close(check_eval["2"][1], F.leaky_relu(raw, 0.3))


FUNCTIONS = {
    "abs": torch.abs,
    **{
        name: getattr(torch, name) for name in ("asinh", "atan", "cosh", "erfc", "exp2", "expm1", "sinc", "sinh", "tan")
    },
    **{name: getattr(torch, name) for name in ("ceil", "floor", "reciprocal", "round", "sgn", "sign", "trunc")},
    "log": lambda t: t.abs().log(),
    "log1p": lambda t: t.abs().log1p(),
    "log2": lambda t: t.abs().log2(),
    "log10": lambda t: t.abs().log10(),
    "rsqrt": lambda t: t.abs().rsqrt(),
    "acosh": lambda t: t.cosh().acosh(),
    "acos": lambda t: t.tanh().acos(),
    "asin": lambda t: t.tanh().asin(),
    "atanh": lambda t: t.tanh().sin().atanh(),
    "erfinv": lambda t: t.tanh().sin().erfinv(),
    "logit": lambda t: torch.logit(t, 1e-2),
    "round to decimals": lambda t: torch.round(t, decimals=1),
    "frac": lambda t: t.exp().frac(),
    "nan_to_num": lambda t: torch.nan_to_num(t.clamp(-0.5, 0.25), nan=0.5),
    "remainder": lambda t: t % 0.7,
    "fmod": lambda t: t.exp().fmod(0.5),
    "power of a tensor": lambda t: torch.pow(t.abs(), torch.full((5,), 1.5, dtype=t.dtype)),
    "power of itself": lambda t: t.abs() ** t.abs(),
    "a number to the power": lambda t: 2.0**t,
    "atan2": lambda t: torch.atan2(torch.ones(5, dtype=t.dtype), t),
    "logaddexp": lambda t: torch.logaddexp(torch.zeros(5, dtype=t.dtype), t),
    "division that rounds": lambda t: torch.div(t, 0.5, rounding_mode="floor"),
    "one or zero": lambda t: torch.where(t > 0, 1.0, 0.0).to(t.dtype),
    "maximum with a constant": lambda t: torch.maximum(torch.full((5,), 0.1, dtype=t.dtype), t),
    "other names": lambda t: torch.arctan(torch.absolute(t)),
    "clamp": lambda t: t.clamp(-0.5, 0.25),
    "clamp by tensors": lambda t: t.clamp(torch.full((5,), -0.5, dtype=t.dtype), torch.tensor(0.25, dtype=t.dtype)),
    "clamp_min": lambda t: t.clamp_min(0.1),
    "clamp_max": lambda t: t.clamp(max=0.1),
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "pow": lambda t: t**2,
    "sin": torch.sin,
    "square": torch.square,
    "softmax function": lambda t: torch.softmax(t, dim=-1),
    "leaky keyword": lambda t: F.leaky_relu(t, negative_slope=0.3),
}


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pointwise_functions(name: str) -> None:
    model, x = build(Function(FUNCTIONS[name]))
    check(model, x, FUNCTIONS[name])


# Functions that are not defined everywhere → (function, lower, upper end of its domain).
DOMAINS: dict[str, tuple[Any, float, float]] = {
    "log": (torch.log, 0, math.inf),
    "log2": (torch.log2, 0, math.inf),
    "log10": (torch.log10, 0, math.inf),
    "log1p": (torch.log1p, -1, math.inf),
    "sqrt": (torch.sqrt, 0, math.inf),
    "rsqrt": (torch.rsqrt, 0, math.inf),
    "pow": (lambda t: t**1.5, 0, math.inf),
    "pow, negative": (lambda t: t**-0.5, 0, math.inf),
    "pow of a tensor": (lambda t: t ** torch.full((5,), 0.5, dtype=t.dtype), 0, math.inf),
    "logit": (torch.logit, 0, 1),
    "asin": (torch.asin, -1, 1),
    "acos": (torch.acos, -1, 1),
    "atanh": (torch.atanh, -1, 1),
    "erfinv": (torch.erfinv, -1, 1),
    "acosh": (torch.acosh, 1, math.inf),
    "spelled out": (lambda t: t * t.log(), 0, math.inf),
    "xlogy": (lambda t: torch.xlogy(t, t), 0, math.inf),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_an_estimate_is_brought_into_the_domain(name: str) -> None:
    function, low, high = DOMAINS[name]
    model, x = build(Function(function))
    with torch.no_grad():
        model[0].weight.abs_().div_(20)
        model[0].bias.fill_(max(low, 0) + 0.3)
        model[2].weight.mul_(torch.tensor([0.5, 8.0, 8.0, 8.0, 8.0]))  # some estimates leave the domain, some do not
    x = x.abs()
    rr = racecar.Racecar(model, x)
    raw = (model(x) - model[2].bias) @ model[2].weight
    eps = torch.finfo(x.dtype).eps
    inside = raw.clamp(low + eps, high - eps)
    assert (raw != inside).any()
    assert (raw == inside).any()
    torch.testing.assert_close(rr.reconstruct(x)["2"][1], function(inside))
    _, penalty = rr(x)
    penalty.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("op", [aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.logit.default], ids=str)
def test_a_perfect_estimate_stays_what_it_is_near_the_end_of_the_domain(op: Any) -> None:
    x = torch.tensor([1e-300, 1e-20, 0.5], dtype=torch.float64)
    assert torch.equal(find_rule(op).range(x, x), op(x))


def test_complex_numbers_have_roots_everywhere() -> None:
    estimate = torch.tensor([-1 + 1j, -4 + 0j])
    assert torch.equal(find_rule(aten.sqrt.default).range(estimate, estimate), estimate.sqrt())


def test_a_sequence_of_activations_is_applied_in_forward_order() -> None:
    model, x = build(nn.Sequential(nn.Tanh(), nn.Dropout(0.0), nn.ELU(0.5)))
    check(model, x, lambda t: F.elu(torch.tanh(t), 0.5))


def test_an_activation_of_ones_own() -> None:
    op = aten.i0.default
    assert find_rule(op) is None
    model, x = build(Function(torch.i0))
    with pytest.raises(racecar.IrreversibleError, match="i0"):
        racecar.Racecar(model, x)
    racecar.register_activation(op)
    try:
        check(model, x, torch.i0)
    finally:
        from racecar.rules import registry

        del registry._RULES[op]


def test_what_has_no_reverse_says_so() -> None:
    model, x = build(Function(lambda t: t.cumprod(-1)))
    with pytest.raises(racecar.IrreversibleError, match=r"cumprod.* in module '1'"):
        racecar.Racecar(model, x)


@pytest.mark.parametrize("dim", [1, -1])
def test_glu_is_a_product_with_its_gate(dim: int) -> None:
    """To the half that is the value its adjoint; of the gate nothing is known: half of the layer is reversed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GLU(dim), nn.Linear(3, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    rr = racecar.Racecar(model, x, layers="all")
    output, penalty = rr(x)
    assert torch.equal(output, model(x))
    raw = (output - model[2].bias) @ model[2].weight
    gate = torch.sigmoid(model[0](x)[:, 3:])
    pairs = rr.reconstruct(x)
    torch.testing.assert_close(pairs["2"][1], raw)
    torch.testing.assert_close(pairs["0"][1], (raw * gate - model[0].bias[:3]) @ model[0].weight[:3])
    gradient = torch.autograd.grad(penalty, [model[0].weight])[0]
    assert gradient[3:].abs().sum() > 0  # the gate is trained by the forward value that the estimate is multiplied with

    class SpelledOut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value, gate = x.chunk(2, dim)
            return value * torch.sigmoid(gate)

    model[1] = SpelledOut()
    torch.testing.assert_close(racecar.Racecar(model, x, layers="all")(x)[1], penalty)
