"""Cheaper variants of the exact method, each one argument: fraction, layerwise, subset, checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import racecar
from racecar import ArgumentError, Racecar
from racecar.passes.fraction import rows

from ..support.zoo import OwnPrecision


class Net(nn.Module):
    """Convolutions with a residual branch, pooling, batch norm, and tokens with attention behind them."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.a(x)))
        h = F.max_pool2d(F.relu(self.c(h + self.b(h))), 2)
        tokens = h.reshape(-1, 8, h.shape[-1] * h.shape[-2]).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens.shape)
        return self.head((tokens + self.out(attended)).mean(1))


def made(norm: bool = True, batch: int = 6) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net(norm).double(), torch.randn(batch, 3, 8, 8, dtype=torch.float64)


def gradients(rr: Racecar, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    rr.zero_grad()
    output, penalty = rr(x)
    (output.square().sum() + penalty).backward()
    return penalty.detach(), [p.grad.clone() for p in rr.model.parameters() if p.grad is not None]


def saved(rr: Racecar, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, every piece of memory once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in rr.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = sum(t.sum() for t in rr(x))
    assert isinstance(loss, Tensor)
    return sum(kept.values())


# --- checkpoint -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_checkpoint_changes_nothing_but_the_memory(reduction: racecar.options.Reduction) -> None:
    net, x = made()
    plain = Racecar(net, x, layers="all", reduction=reduction)
    again = Racecar(net, x, layers="all", reduction=reduction, checkpoint=True)
    (one, wanted), (other, found) = gradients(plain, x), gradients(again, x)
    assert one == other
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert saved(again, x) < 0.75 * saved(plain, x)


def test_checkpoint_without_gradients_and_in_half_precision() -> None:
    net, x = made()
    net, x = net.float(), x.float()
    rr, plain = Racecar(net, x, checkpoint=True), Racecar(net, x)
    with torch.no_grad():
        assert torch.equal(rr(x)[1], plain(x)[1])
    with torch.autocast("cpu", torch.bfloat16):
        (_, found), (_, wanted) = rr(x), plain(x)
    found.backward()
    torch.testing.assert_close(found, wanted)


# --- fraction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("fraction", [0.5, 0.34, 0.01])
def test_a_share_of_the_batch_is_the_penalty_of_its_first_samples(
    fraction: float, reduction: racecar.options.Reduction
) -> None:
    """Without batch norm, so that samples do not know of each other."""
    net, x = made(norm=False)
    rr = Racecar(net, x, layers="all", fraction=fraction, reduction=reduction)
    count = {0.5: 3, 0.34: 2, 0.01: 1}[fraction]
    whole = Racecar(net, x, layers="all", reduction=reduction)
    for batch in (x, torch.cat([x, x])):
        part = count * len(batch) // len(x) if fraction != 0.01 else 1
        output, penalty = rr(batch)
        torch.testing.assert_close(output, net(batch))
        expected = whole(batch[:part])[1] * (len(batch) / part if reduction == "sum" else 1)
        torch.testing.assert_close(penalty, expected)
        found = torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True)
        wanted = torch.autograd.grad(expected, list(net.parameters()), allow_unused=True)
        for a, b in zip(found, wanted, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b)


def test_a_share_costs_less() -> None:
    net, x = made(batch=8)
    assert flops(Racecar(net, x, layers="all", fraction=0.25), x) < 0.7 * flops(Racecar(net, x, layers="all"), x)


class Sequence(nn.Module):
    """Tokens first, and made one with the samples before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x.transpose(0, 1)))
        h = self.b(h.reshape(-1, 4)).view(h.shape[0], x.shape[0], 5)
        return self.c(h).transpose(0, 1)


def test_a_shares_gradient_lies_in_memory_as_its_value() -> None:
    """Else a channels-last network would be rearranged in every step."""
    value = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    seen: list[Tensor] = []
    value.register_hook(seen.append)
    taken = rows(value * 1, value, 0.5)
    torch.testing.assert_close(taken, value[:2])
    taken.square().sum().backward()
    torch.testing.assert_close(seen[0], torch.cat([2 * value[:2], torch.zeros(2, 3, 5, 5)]))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    wide = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: rows(v**3, v, 0.5), wide)
    assert torch.autograd.gradcheck(
        lambda v: rows(v.expand(4, 3), v.expand(4, 3), 0.5), wide[:1].detach().requires_grad_()
    )


def test_the_batch_may_lie_anywhere() -> None:
    torch.manual_seed(0)
    net, x = Sequence().double(), torch.randn(6, 3, 4, dtype=torch.float64)
    rr, whole = Racecar(net, x, fraction=0.5), Racecar(net, x)
    torch.testing.assert_close(rr(x)[1], whole(x[:3])[1])


def test_the_batch_may_lie_anywhere_however_dimensions_were_merged() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)).transpose(0, 1).reshape_as(self.a(x.flatten(0, 1))))

    torch.manual_seed(0)
    net, x = Merged().double(), torch.randn(6, 3, 4, dtype=torch.float64)
    rr, whole = Racecar(net, x, layers=["b"], fraction=0.5), Racecar(net, x, layers=["b"])
    torch.testing.assert_close(rr(x)[1], whole(x[:3])[1])


def test_where_the_samples_are_must_be_told() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.tanh(h.unsqueeze(0) + h.unsqueeze(1)))

    with pytest.raises(ArgumentError, match="how the batch lies"):
        Racecar(Pairs(), torch.randn(5, 4), layers="all", fraction=0.5)


# --- layerwise --------------------------------------------------------------------------------------------------------


def test_layerwise_reverses_every_layer_from_the_forward_value_behind_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    pairs = Racecar(net, x, layerwise=True).reconstruct(x)
    h1 = torch.tanh(net[0](x))
    h2 = torch.tanh(net[2](h1))
    torch.testing.assert_close(pairs["4"][1], torch.tanh((net[4](h2) - net[4].bias) @ net[4].weight))
    torch.testing.assert_close(pairs["2"][1], torch.tanh((h2 - net[2].bias) @ net[2].weight))
    torch.testing.assert_close(pairs["0"][1], (h1 - net[0].bias) @ net[0].weight)


def test_layerwise_errors_do_not_grow_with_depth() -> None:
    """A chain of random layers of large weights explodes; reversed one by one they do not."""
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(16, 16) for _ in range(30)]).double()
    for layer in net:
        layer.weight.data.mul_(3)
    x = torch.randn(8, 16, dtype=torch.float64)
    errors = {}
    for name, layerwise in (("chain", False), ("layerwise", True)):
        pairs = list(Racecar(net, x, layerwise=layerwise).reconstruct(x).values())
        errors[name] = [((b - a).norm() / a.norm()).item() for a, b in pairs]
    assert errors["chain"][0] > 1e6
    assert max(errors["layerwise"]) < 30


# --- subset -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_subset_is_the_weighted_sum_of_its_layers(layerwise: bool) -> None:
    net, x = made(norm=False)
    whole = Racecar(net, x, layers="all", layerwise=layerwise)
    distances = whole.distances(x)[1].detach()
    n = len(distances)
    rr = Racecar(net, x, layers="all", layerwise=layerwise, subset=2, weight=0.1)
    seen = set()
    for number in range(40):
        penalty = rr(x)[1].detach()
        terms = [(i, j) for i in range(n) for j in range(i)]
        matching = [(i, j) for i, j in terms if abs(penalty - 0.1 * n / 2 * (distances[i] + distances[j])) < 1e-12]
        assert matching, f"draw {number} is no sum of two layers"
        seen.update(matching[0])
    assert seen == set(range(n))
    torch.testing.assert_close(rr.distances(x)[1], distances)  # as a whole, whatever was drawn


def test_subsets_go_on_where_the_count_is_set_and_the_models_random_numbers_are_its_own() -> None:
    net, x = made(norm=False)
    rr = Racecar(net, x, layers="all", subset=1)
    state = torch.get_rng_state()
    first = [rr(x)[1].item() for _ in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(first)) > 1
    rr.draws = 3
    assert [rr(x)[1].item() for _ in range(3)] == first[3:]
    twin = copy.deepcopy(rr)
    assert twin(x)[1].item() == rr(x)[1].item()


def test_layers_that_are_not_drawn_cost_nothing() -> None:
    net, x = made()
    whole = flops(Racecar(net, x, layers="all", layerwise=True), x)
    plain = flops(Racecar(net, x, layers="all", every=10**6), x, call=1)
    drawn = Racecar(net, x, layers="all", layerwise=True, subset=1)
    one = sorted(flops(drawn, x, draw=d) for d in range(12))
    assert plain < one[0]
    assert sum(one) / len(one) - plain < 0.5 * (whole - plain)


def flops(rr: Racecar, x: Tensor, call: int = 0, draw: int = 0) -> int:
    """Of a training step."""
    rr.calls, rr.draws = call, draw
    with FlopCounterMode(display=False) as counter:
        torch.stack([t.sum() for t in rr(x)]).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_draw_runs_the_segments_that_its_layers_need_and_changes_no_other_call(layerwise: bool) -> None:
    net, x = made(norm=False)
    rr = Racecar(net, x, layers="all", layerwise=layerwise, subset=1)
    whole = rr.distances(x)[1]
    subset = rr.program.subset
    assert subset is not None
    for number in range(12):
        draw = subset.draw(number)
        assert draw == subset.draw(number)
        (layer,) = (i for i, weight in enumerate(draw.weights) if weight)
        assert draw.weights[layer] == len(rr.layers)
        _, distances = rr.program.train(rr, (x,), {}, draw)
        torch.testing.assert_close(distances[layer], whole[layer])
        left_out = [i for i, segment in enumerate(subset.segment_of) if segment not in draw.segments]
        assert not distances[left_out].any()
        assert len(left_out) >= len(rr.layers) - 2 if layerwise else len(left_out) == layer
        torch.testing.assert_close(rr.distances(x)[1], whole)


# --- together, and what cannot be -------------------------------------------------------------------------------------


VARIANTS: tuple[dict[str, Any], ...] = (
    {"checkpoint": True},
    {"fraction": 0.5},
    {"layerwise": True},
    {"checkpoint": True, "fraction": 0.5, "layerwise": True},
    {"subset": 2, "checkpoint": True, "layerwise": True, "fraction": 0.5},
)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_gradients_reach_the_weights_and_the_options_are_shown(options: dict[str, Any]) -> None:
    net, x = made()
    rr = Racecar(net, x, layers="all", **options)
    _, found = gradients(rr, x)
    assert len(found) == len(list(net.parameters()))
    for name, value in options.items():
        assert f"{name}={value}" in repr(rr)


@pytest.mark.parametrize("options", [v for v in VARIANTS[:-1] if "checkpoint" in v], ids=str)
def test_compiled_they_are_the_same(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    # Short, as tracing takes most of the time.
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).double()
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    rr = Racecar(net, x, layers="all", **options)
    wanted, gradient = gradients(rr, x)
    compiled = torch.compile(rr, backend="aot_eager")
    rr.zero_grad()
    output, penalty = compiled(x)
    (output.square().sum() + penalty).backward()
    torch.testing.assert_close(penalty.detach(), wanted)
    for a, b in zip((p.grad for p in net.parameters()), gradient, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [*VARIANTS, {"subset": 3}], ids=str)
def test_regions_of_another_precision_and_a_users_input_range(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = OwnPrecision(), torch.randn(4, 6)
    rr = Racecar(net, x, input_range=torch.sigmoid, **(options | ({"subset": 3} if "subset" in options else {})))
    same = {k: v for k, v in options.items() if k in ("layerwise", "fraction")}
    plain = Racecar(net, x, input_range=torch.sigmoid, **same)
    with torch.autocast("cpu", torch.bfloat16):
        (output, penalty), (wanted, expected) = rr(x), plain(x)
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(penalty, expected)
    twin = copy.deepcopy(rr)
    torch.testing.assert_close(twin(x)[1], rr(x)[1])


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"fraction": 0.0}, "fraction must be a share of the batch"),
    ({"fraction": 1.5}, "fraction must be a share of the batch"),
    ({"fraction": True}, "fraction must be a share of the batch"),
    ({"subset": 0}, "subset must be a number of layers"),
    ({"subset": 1.5}, "subset must be a number of layers"),
    ({"subset": 99}, "only 6 layers are compared"),
    ({"layerwise": 1}, "layerwise must be True or False"),
    ({"checkpoint": "yes"}, "checkpoint must be True, False or 'both'"),
    ({"checkpoint": True, "norm_statistics": "shared"}, "count its statistics twice"),
)


@pytest.mark.parametrize(("options", "said"), WRONG, ids=lambda v: str(v)[:40])
def test_wrong_arguments(options: dict[str, Any], said: str) -> None:
    net, x = made()
    with pytest.raises(ArgumentError, match=said):
        Racecar(net, x, layers="all", **options)


@pytest.mark.parametrize("options", [{"fraction": 0.5}, {"subset": 1}, {"checkpoint": True}], ids=str)
def test_an_ensemble_refuses_what_it_would_ignore(options: dict[str, Any]) -> None:
    models = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(2)]
    with pytest.raises(ArgumentError, match="the whole reverse pass"):
        racecar.Ensemble(models, torch.randn(5, 4), **options)


@pytest.mark.parametrize("options", [{"subset": 2}, {"checkpoint": True}, {"subset": 2, "checkpoint": True}])
def test_a_function_for_the_input_range_is_part_of_its_segment(options: dict[str, Any]) -> None:
    model, x = made()
    whole = racecar.Racecar(model, x, input_range=torch.tanh)
    cheap = racecar.Racecar(model, x, input_range=torch.tanh, **options)
    torch.testing.assert_close(cheap.distances(x)[1], whole.distances(x)[1])
