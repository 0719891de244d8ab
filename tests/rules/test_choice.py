"""where, masked_fill, maximum: the estimate goes to what was chosen; the rest is unknown, or the forward value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar import ReverseCall
from racecar.rules import find_rule

aten = torch.ops.aten


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


class Between(nn.Module):
    """A function of one value (and of further inputs) between two layers."""

    mask: Tensor

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function
        self.scores = nn.Parameter(torch.randn(6))
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, False]))
        self.double()

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.b(self.function(self, self.a(x), *others))


def raw(net: Between, output: Tensor) -> Tensor:
    return (output - net.b.bias) @ net.b.weight


def first(net: Between, hidden: Tensor) -> Tensor:
    return (hidden - net.a.bias) @ net.a.weight


FILLS: dict[str, Callable[[Between, Tensor], Tensor]] = {
    "where": lambda net, h: torch.where(net.mask, h, 0.5),
    "where, the other way": lambda net, h: torch.where(~net.mask, 0.5, h),
    "where of two tensors": lambda net, h: torch.where(net.mask, h, net.scores),
    "masked_fill": lambda net, h: h.masked_fill(~net.mask, 0.5),
    "masked_fill in place": lambda net, h: (h * 1.0).masked_fill_(~net.mask, 0.5),
    "masked_fill by a tensor": lambda net, h: h.masked_fill(~net.mask, torch.tensor(0.5)),
    "a mask of numbers": lambda net, h: h.masked_fill(net.mask.double() == 0, 0.5),
}


@pytest.mark.parametrize("name", FILLS)
def test_what_a_constant_mask_drops_is_unknown(name: str) -> None:
    net, x = Between(FILLS[name]), rand(5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    kept = net.mask.nonzero().flatten()
    hidden = raw(net, output)[:, kept]
    back = (hidden - net.a.bias[kept]) @ net.a.weight[kept]  # those rows of the layer alone
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], back)
    penalty.backward()
    assert net.a.weight.grad is not None
    assert net.a.weight.grad.isfinite().all()


VARYING: dict[str, Callable[..., Tensor]] = {
    "where": lambda net, h, mask: torch.where(mask, h, 0.5),
    "where, the other way": lambda net, h, mask: torch.where(~mask, 0.5, h),
    "masked_fill": lambda net, h, mask: h.masked_fill(~mask, 0.5),
    "written through a mask": lambda net, h, mask: torch.where(mask, h, h.new_full((6,), 0.5)),
}


@pytest.mark.parametrize("name", VARYING)
def test_what_a_mask_of_the_users_drops_keeps_its_forward_value(name: str) -> None:
    net, x, mask = Between(VARYING[name]), rand(5, 4), torch.rand(5, 6) > 0.5
    rr = racecar.Racecar(net, (x, torch.ones(5, 6, dtype=torch.bool)), layers="all")
    output, _ = rr(x, mask)
    assert torch.equal(output, net(x, mask))
    hidden = torch.where(mask, raw(net, output), net.a(x))
    torch.testing.assert_close(rr.reconstruct(x, mask)["a"][1], first(net, hidden))


def test_a_mask_of_random_numbers_or_of_parameters_is_not_baked_in() -> None:
    def random(net: Between, h: Tensor) -> Tensor:
        return h.masked_fill(torch.rand(6) > 0.5, 0.0)

    net, x = Between(random), rand(5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    for seed in range(4):
        torch.manual_seed(seed)
        _, right = rr.reconstruct(x)["a"]
        torch.manual_seed(seed)
        dropped = torch.rand(6) > 0.5
        torch.manual_seed(seed)
        hidden = torch.where(dropped, net.a(x), raw(net, net(x)))
        torch.testing.assert_close(right, first(net, hidden))

    net = Between(lambda net, h: torch.where(net.scores > 0, h, 0.0))
    rr = racecar.Racecar(net, x, layers="all")
    with torch.no_grad():
        net.scores.neg_()
    hidden = torch.where(net.scores > 0, raw(net, net(x)), net.a(x))
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], first(net, hidden))


class Either(nn.Module):
    """Two layers of which one is chosen entry by entry."""

    def __init__(self, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last, self.choose = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3), choose
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.choose(self.a(x), self.b(x)))


@pytest.mark.parametrize("choose", [torch.maximum, torch.minimum, torch.max, torch.fmax, torch.fmin])
def test_the_chosen_of_two_layers_gets_the_estimate(choose: Callable[[Tensor, Tensor], Tensor]) -> None:
    net, x = Either(choose), rand(5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    output, _ = rr(x)
    assert torch.equal(output, net(x))
    estimate = (output - net.last.bias) @ net.last.weight
    a, b = net.a(x), net.b(x)
    chosen = choose(a, b) == a
    one = (torch.where(chosen, estimate, a) - net.a.bias) @ net.a.weight
    other = (torch.where(chosen, b, estimate) - net.b.bias) @ net.b.weight
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], (one + other) / 2)


def test_where_of_two_layers_by_an_input() -> None:
    class Which(Either):
        def forward(self, x: Tensor, which: Tensor) -> Tensor:  # type: ignore[override]
            return self.last(torch.where(which, torch.tanh(self.a(x)), F.relu(self.b(x))))

    net, x, which = Which(torch.maximum), rand(5, 4), torch.rand(5, 1) > 0.5
    rr = racecar.Racecar(net, (x, which), layers="all")
    estimate = (net(x, which) - net.last.bias) @ net.last.weight
    a, b = torch.tanh(net.a(x)), F.relu(net.b(x))
    pairs = rr.reconstruct(x, which)
    # each part in the range of the activation that it comes out of
    mapped = torch.where(which, torch.tanh(estimate), F.relu(estimate))
    torch.testing.assert_close(pairs["last"][1], mapped)
    one = (torch.where(which, mapped, a) - net.a.bias) @ net.a.weight
    other = (torch.where(which, b, mapped) - net.b.bias) @ net.b.weight
    torch.testing.assert_close(pairs["a"][1], (one + other) / 2)


# operation → (arguments, for every tensor argument whether it is the data): shapes that broadcast
BROADCAST = {
    "where": (aten.where.self, (torch.rand(3, 1) > 0.5, rand(2, 3, 4), rand(4)), (False, True, True)),
    "masked_fill": (
        aten.masked_fill.Tensor,
        (rand(3, 1), torch.rand(2, 3, 4) > 0.5, torch.tensor(0.3, dtype=torch.float64)),
        (True, False, True),
    ),
    "maximum": (aten.maximum.default, (rand(2, 1, 4), rand(3, 1)), (True, True)),
    "minimum": (aten.minimum.default, (rand(2, 1, 4), rand(3, 1)), (True, True)),
}


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("name", BROADCAST)
def test_an_operand_that_was_repeated_is_the_mean_over_where_it_was_chosen(name: str, varies: bool) -> None:
    op, args, estimated = BROADCAST[name]
    rule = find_rule(op)
    assert rule is not None
    y = op(*args)
    estimate = torch.randn_like(y)
    call = ReverseCall(estimated, varies=(varies, True, True) if name == "where" else (True, varies, True))
    tensors = [a for a in args if isinstance(a, Tensor)]
    for x, piece, wanted in zip(tensors, rule.reverse(estimate, *args, context=call), estimated, strict=True):
        if not wanted:
            assert piece is None
            continue
        chosen = x.expand(y.shape) == y
        count = chosen.double().sum_to_size(x.shape)
        mean = torch.where(chosen, estimate, 0).sum_to_size(x.shape) / count.clamp(min=1)
        rest = x if varies or "mum" in name else torch.zeros_like(x)
        torch.testing.assert_close(piece, torch.where(count > 0, mean, rest))


def test_shapes_that_do_not_broadcast_are_an_error() -> None:
    for op, args, estimated in BROADCAST.values():
        rule = find_rule(op)
        assert rule is not None
        with pytest.raises(RuntimeError):
            rule.reverse(rand(2, 3, 5), *args, context=ReverseCall(estimated))
