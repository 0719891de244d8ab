"""A sum of linear branches is one linear map: merged into one layer, the model has the same penalty and gradients."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar


def params(*shape: int, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4)


class Branches(nn.Module):
    """A layer given by a function of x and its own parameters, and the plain layer that it comes down to."""

    def __init__(
        self, forward: Callable[..., Tensor], merge: Callable[..., nn.Module], **weights: nn.Parameter
    ) -> None:
        super().__init__()
        self.function, self.merge = forward, merge
        for name, weight in weights.items():
            self.register_parameter(name, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **dict(self.named_parameters()))

    def merged(self) -> nn.Module:
        with torch.no_grad():
            return self.merge(**dict(self.named_parameters()))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def conv(weight: Tensor, bias: Tensor | None = None, **options: Any) -> nn.Module:
    dims = weight.ndim - 2
    kind: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    width = weight.shape[1] * options.get("groups", 1)
    layer = kind(width, weight.shape[0], tuple(weight.shape[2:]), bias=bias is not None, dtype=weight.dtype, **options)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def centre(weight: Tensor) -> Tensor:
    """A kernel of size 1 as one of size 3."""
    return F.pad(weight, [1, 1] * (weight.ndim - 2))


def identity(width: int, dims: int) -> Tensor:
    return torch.eye(width, dtype=torch.float64).view(width, width, *[1] * dims)


def lora(x: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return F.linear(x, w, c) + F.linear(F.linear(F.dropout(x, 0.0), a), b) * 0.5


def lora_biases(x: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    return F.linear(x, w, c) - 2 * F.linear(F.linear(x, a, d), b, e)


def repvgg(x: Tensor, w: Tensor, one: Tensor, c: Tensor, d: Tensor) -> Tensor:
    function: Any = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return function(x, w, c, padding=1) + function(x, one, d) + x


def merge_repvgg(w: Tensor, one: Tensor, c: Tensor, d: Tensor) -> nn.Module:
    return conv(w + centre(one) + centre(identity(len(w), w.ndim - 2)), c + d, padding=1)


def adapted() -> Branches:
    def merge(w: Tensor, a: Tensor, b: Tensor, c: Tensor) -> nn.Module:
        return linear(w + b @ a / 2, c)

    return Branches(lora, merge, w=params(6, 6), a=params(2, 6), b=params(6, 2), c=params(6))


VECTORS, IMAGES = (5, 6), (3, 4, 5, 5)
CASES: dict[str, tuple[tuple[int, ...], Callable[[], Branches]]] = {
    "lora": (VECTORS, adapted),
    "lora on tokens": ((3, 4, 6), adapted),
    "lora with biases everywhere": (
        VECTORS,
        lambda: Branches(
            lora_biases,
            lambda w, a, b, c, d, e: linear(w - 2 * b @ a, c - 2 * (b @ d + e)),
            **{"w": params(6, 6), "a": params(2, 6), "b": params(6, 2), "c": params(6)},
            **{"d": params(2), "e": params(6, seed=1)},
        ),
    ),
    "addmm": (
        VECTORS,
        lambda: Branches(
            lambda x, w, a, b, c: torch.add(torch.addmm(c, x, w, beta=3), x @ a @ b, alpha=2),
            lambda w, a, b, c: linear((w + 2 * a @ b).T, 3 * c),
            **{"w": params(6, 6), "a": params(6, 2), "b": params(2, 6), "c": params(6)},
        ),
    ),
    "three branches, scaled and moved": (
        (3, 4, 6),
        lambda: Branches(
            lambda x, w, v, s: (
                torch.sub(F.linear(x, w), (x.flatten(0, 1) @ v).view(3, 4, 6), alpha=2)
                + x.mT.contiguous().mT * s / 3
                + 1
            ),
            lambda w, v, s: linear(w - 2 * v.T + torch.diag(s) / 3, torch.ones(6, dtype=torch.float64)),
            **{"w": params(6, 6), "v": params(6, 6, seed=1), "s": params(6)},
        ),
    ),
    "beside itself": (
        VECTORS,
        lambda: Branches(lambda x, w: (y := F.linear(x, w)) + y, lambda w: linear(2 * w), w=params(6, 6)),
    ),
    **{
        f"repvgg in {dims} dimensions": (
            (3, 4, *[5] * dims),
            lambda dims=dims: Branches(  # type: ignore[misc]
                repvgg,
                merge_repvgg,
                w=params(4, 4, *[3] * dims),
                one=params(4, 4, *[1] * dims),
                c=params(4),
                d=params(4, seed=1),
            ),
        )
        for dims in (1, 2, 3)
    },
    "kernels one after the other": (
        IMAGES,
        lambda: Branches(
            lambda x, w, down, up, c: F.conv2d(x, w, c, padding=1) + F.conv2d(F.conv2d(x, down, padding=1), up),
            lambda w, down, up, c: conv(w + torch.einsum("om,mikl->oikl", up[:, :, 0, 0], down), c, padding=1),
            **{"w": params(4, 4, 3, 3), "down": params(2, 4, 3, 3), "up": params(4, 2, 1, 1), "c": params(4)},
        ),
    ),
    "grouped": (
        IMAGES,
        lambda: Branches(
            lambda x, w, one: F.conv2d(x, w, padding=1, groups=2) + F.conv2d(x, one, groups=2),
            lambda w, one: conv(w + centre(one), padding=1, groups=2),
            **{"w": params(4, 2, 3, 3), "one": params(4, 2, 1, 1)},
        ),
    ),
}


def network(name: str) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """Two such layers with an activation between and behind, the same merged, and an input."""
    shape, layer = CASES[name]
    model = nn.Sequential(layer(), nn.Tanh(), layer(), nn.Sigmoid())
    for p in model[2].parameters():
        with torch.no_grad():
            p.mul_(0.7)
    merged = nn.Sequential(*[m.merged() if isinstance(m, Branches) else m for m in model])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(model(x), merged(x))
    return model, merged, x


@pytest.mark.parametrize("name", CASES)
def test_a_merged_and_an_unmerged_model_have_the_same_penalty(name: str) -> None:
    model, merged, x = network(name)
    x.requires_grad_()
    ours, theirs = (racecar.Racecar(m, x.detach(), layers="all") for m in (model, merged))
    pairs = zip(ours.reconstruct(x).values(), theirs.reconstruct(x).values(), strict=True)
    for (value, estimate), (other, expected) in pairs:
        torch.testing.assert_close(value, other)
        torch.testing.assert_close(estimate, expected)
    penalties = [rr(x)[1] for rr in (ours, theirs)]
    torch.testing.assert_close(penalties[0], penalties[1])
    (mine,), (other,) = (torch.autograd.grad(p, [x]) for p in penalties)
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    "options",
    [{"layerwise": True}, {"checkpoint": True}, {"fraction": 0.5}, {"layers": 1}, {"reduction": "sum"}],
    ids=str,
)
def test_also_the_cheaper_ways(options: Any) -> None:
    model, merged, x = network("lora")
    x = torch.cat([x, x + 0.1, x - 0.3])[:12]
    penalties = []
    for m in (model, merged):
        torch.manual_seed(0)
        penalties.append(racecar.Racecar(m, x, **{"layers": "all", **options})(x)[1])
    torch.testing.assert_close(penalties[0], penalties[1])


def test_adapters_that_start_at_zero_leave_the_penalty_as_it_is() -> None:
    base = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()

    class Adapted(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.base = layer
            self.a = nn.Linear(layer.in_features, 2, bias=False, dtype=torch.float64)
            self.b = nn.Linear(2, layer.out_features, bias=False, dtype=torch.float64)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.b(self.a(x))

    x = torch.randn(5, 6, dtype=torch.float64)
    adapted = nn.Sequential(*[Adapted(m) if isinstance(m, nn.Linear) else m for m in copy.deepcopy(base)])
    rr = racecar.Racecar(adapted, x)
    torch.testing.assert_close(rr(x)[1], racecar.Racecar(base, x)(x)[1])
    assert rr.layers == ("0.base", "2.base")
    said = [line for line in str(rr.explain()).splitlines() if line.startswith("0.b ")]
    assert "in 0.base" in said[0]
    rr(x)[1].backward()
    assert adapted[0].b.weight.grad.abs().max() > 0


def test_a_branch_that_is_named_is_compared_where_the_sum_is() -> None:
    model, _, x = network("kernels one after the other")
    every = racecar.Racecar(model, x, layers="all").layers
    name = racecar.Racecar(model, x, layers=["2"]).layers
    assert name == every[1:]


class Residual(nn.Module):
    """x + f(x), a linear f or not; its inner value read elsewhere or not."""

    def __init__(self, activation: nn.Module, also_inner: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.activation, self.also_inner = activation, also_inner
        self.double()

    def forward(self, x: Tensor) -> Any:
        inner = self.activation(self.one(x))
        y = self.out(torch.tanh(x + self.two(inner)))
        return (y, inner) if self.also_inner else y

    def estimate(self, x: Tensor, *, linear: bool) -> Tensor:
        """Of x, from the output on by hand."""
        hidden = torch.tanh(
            (self.out(torch.tanh(x + self.two(self.activation(self.one(x))))) - self.out.bias) @ self.out.weight
        )
        if linear:
            hidden = hidden - (self.two.bias + self.two.weight @ self.one.bias)
            return hidden + hidden @ self.two.weight @ self.one.weight
        inner = self.activation((hidden - self.two.bias) @ self.two.weight)
        return (hidden + (inner - self.one.bias) @ self.one.weight) / 2


@pytest.mark.parametrize("linear", [True, False])
def test_only_branches_that_are_linear_all_the_way_are_summed(linear: bool) -> None:
    model = Residual(nn.Identity() if linear else nn.Sigmoid())
    x = torch.randn(5, 4, dtype=torch.float64)
    pairs = racecar.Racecar(model, x, layers="all", start="out").reconstruct(x)
    torch.testing.assert_close(pairs["one"][1], model.estimate(x, linear=linear))
    assert ("two" in pairs) != linear


def test_what_is_read_inside_of_a_sum_keeps_its_own_estimate() -> None:
    model = Residual(nn.Identity(), also_inner=True)
    x = torch.randn(5, 4, dtype=torch.float64)
    pairs = racecar.Racecar(model, x, layers="all", start="out").reconstruct(x)
    assert list(pairs) == ["one", "two", "out"]
    torch.testing.assert_close(pairs["one"][1], model.estimate(x, linear=False))


def test_a_start_inside_of_a_sum() -> None:
    model = Residual(nn.Identity())
    x = torch.randn(5, 4, dtype=torch.float64)
    pairs = racecar.Racecar(model, x, layers="all", start="two").reconstruct(x)
    assert list(pairs) == ["one", "two"]
    inner = (model.two(model.one(x)) - model.two.bias) @ model.two.weight
    torch.testing.assert_close(pairs["one"][1], (inner - model.one.bias) @ model.one.weight)


@pytest.mark.parametrize("first", [True, False])
def test_of_an_estimate_that_is_known_in_part_the_rest_adds_nothing(first: bool) -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.w(x) + self.v(x) if first else self.w(x) + self.v(x) + x
            return self.out(y[:, :2])

    model, x = Some(), torch.randn(5, 4, dtype=torch.float64)
    _, estimate = racecar.Racecar(model, x, layers="all").reconstruct(x)["w"]
    weight = (model.w.weight + model.v.weight + torch.eye(4))[:2]
    back = (model(x) - model.out.bias) @ model.out.weight
    torch.testing.assert_close(estimate, (back - (model.w.bias + model.v.bias)[:2]) @ weight)


def test_an_untied_decoder_has_branches_of_its_own() -> None:
    model, merged, x = network("lora")
    mine, other = copy.deepcopy(model), copy.deepcopy(merged)
    ours = racecar.Racecar(model, x, layers="all", decoder=mine)(x)[1]
    theirs = racecar.Racecar(merged, x, layers="all", decoder=other)(x)[1]
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    assert mine[0].a.grad is not None
    assert mine[0].a.grad.abs().max() > 0


def test_under_autocast_the_estimate_stays_in_low_precision() -> None:
    first, _, x = network("kernels one after the other")
    second, _, _ = network("repvgg in 2 dimensions")
    model, x = nn.Sequential(first[0], nn.Tanh(), second[0]).float(), x.float()
    rr = racecar.Racecar(model, x, layers="all")
    exact = rr(x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        _, estimate = rr.reconstruct(x)[rr.layers[1]]
        penalty = rr(x)[1]
    assert estimate.dtype == torch.bfloat16
    torch.testing.assert_close(penalty.float(), exact, rtol=0.1, atol=0.01)


def test_complex_branches_are_conjugated() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))
            self.v = nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.w) + 1j * F.linear(x, self.v)

    model, x = Complex(), torch.randn(5, 4, dtype=torch.complex128)
    rr = racecar.Racecar(model, x)
    ((_, estimate),) = rr.reconstruct(x).values()
    torch.testing.assert_close(estimate, model(x) @ (model.w + 1j * model.v).conj())


class AsPeft(nn.Module):
    """A LoRA layer as peft writes it, casts and dropout included."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.dropout = base, nn.Dropout(0.0)
        self.lora_a = nn.Linear(base.in_features, 2, bias=False, dtype=torch.float64)
        self.lora_b = nn.Linear(2, base.out_features, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        dtype = result.dtype
        result = result + self.lora_b(self.lora_a(self.dropout(x.to(self.lora_a.weight.dtype)))) * 2.0
        return result.to(dtype)

    def merged(self) -> nn.Module:
        return linear(self.base_layer.weight + 2 * self.lora_b.weight @ self.lora_a.weight, self.base_layer.bias)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.drop = *layers, nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.two(F.gelu(self.one(x))))


def test_the_last_layer_of_a_residual_block_ends_where_it_does_without_adapters() -> None:
    torch.manual_seed(0)
    adapted = [AsPeft(nn.Linear(6, 6).double()) for _ in range(4)]
    x = torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        merged = [layer.merged() for layer in adapted]
    ours, theirs = (nn.Sequential(Block(*m[:2]), Block(*m[2:])) for m in (adapted, merged))
    a, b = (racecar.Racecar(m, x) for m in (ours, theirs))
    assert len(a.layers) == len(b.layers) == 4
    torch.testing.assert_close(a(x)[1], b(x)[1])


class ReadsTheCopy(Block):
    """As some versions of torch trace the block above: what comes later reads the result of a dropout of nothing."""

    def forward(self, x: Tensor) -> Tensor:
        copy = F.dropout(x, 0.0)
        branches = self.one.base_layer(x) + self.one.lora_b(self.one.lora_a(copy)) * 2.0
        return copy + self.two(F.gelu(branches))


def test_a_value_that_is_read_through_a_dropout_of_nothing_is_still_the_same_value() -> None:
    torch.manual_seed(0)
    one, two = AsPeft(nn.Linear(6, 6).double()), nn.Linear(6, 6).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    with torch.no_grad():
        merged = Block(one.merged(), two)
    a, b = (racecar.Racecar(m, x) for m in (ReadsTheCopy(one, two), merged))
    assert len(a.layers) == len(b.layers) == 2
    torch.testing.assert_close(a(x)[1], b(x)[1])
