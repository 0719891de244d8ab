"""Values taken from or put to places that a tensor of indices names: each comes back from or to its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar import ReverseCall
from racecar.rules import find_rule

aten = torch.ops.aten


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def back(op: Any, estimate: Tensor, *args: Any, estimated: tuple[bool, ...], varies: bool = False, **named: Any) -> Any:
    rule = find_rule(op)
    assert rule is not None
    tensors = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)]
    assert len(tensors) == len(estimated)
    changing = tuple(e or (varies and not t.is_floating_point()) for e, t in zip(estimated, tensors, strict=True))
    return rule.reverse(estimate, *args, context=ReverseCall(estimated, varies=changing), **named)


INDEX = torch.tensor([[0, 3, 3, 1], [2, 2, 2, 0]])

# name → (operation, arguments after the value (3, 4, 5))
TAKEN: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "index_select": (aten.index_select.default, (1, torch.tensor([3, 0, 3]))),
    "index_select of the last": (aten.index_select.default, (-1, torch.tensor([4, 4]))),
    "gather": (aten.gather.default, (1, torch.randint(4, (2, 6, 5)))),
    "gather of the last": (aten.gather.default, (-1, torch.randint(5, (3, 4, 2)))),
    "take_along_dim": (aten.take_along_dim.default, (torch.randint(4, (3, 2, 5)), 1)),
    "take_along_dim, repeated": (aten.take_along_dim.default, (torch.randint(5, (1, 4, 7)), -1)),
    "take_along_dim of all": (aten.take_along_dim.default, (torch.randint(60, (9,)),)),
    "take": (aten.take.default, (torch.randint(60, (2, 7)),)),
    "index": (aten.index.Tensor, ([torch.tensor([2, 0, 2])],)),
    "index of two": (aten.index.Tensor, ([torch.tensor([2, 0, 2]), torch.tensor([1, 1, 3])],)),
    "index further in": (aten.index.Tensor, ([None, torch.tensor([[1, 1], [3, 0]])],)),
    "index around": (aten.index.Tensor, ([torch.tensor([1, 2]), None, torch.tensor([4, 0])],)),
    "index by a mask": (aten.index.Tensor, ([torch.arange(12).view(3, 4) % 5 > 1],)),
    "repeat_interleave": (aten.repeat_interleave.self_Tensor, (torch.tensor([2, 0, 1, 3]), 1)),
    "repeat_interleave of all": (aten.repeat_interleave.self_Tensor, (torch.arange(60) * 7 % 3,)),
}


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("name", TAKEN)
def test_what_was_taken_comes_back_to_its_place_as_the_mean_of_its_copies(name: str, varies: bool) -> None:
    op, rest = TAKEN[name]
    x = rand(3, 4, 5)
    y = op(x, *rest)
    estimate = torch.randn_like(y)
    indices = sum(isinstance(t, Tensor) for a in rest for t in (a if isinstance(a, list) else [a]))
    found = back(op, estimate, x, *rest, estimated=(True, *[False] * indices), varies=varies)
    # The adjoint sums the copies: of the estimate over that of ones is their mean.
    total, count = (torch.func.vjp(lambda t: op(t, *rest), x)[1](e)[0] for e in (estimate, torch.ones_like(estimate)))
    mean = total / count.clamp(min=1)
    torch.testing.assert_close(found, torch.where(count > 0, mean, x) if varies else mean)
    assert (count == 0).any()


@pytest.mark.parametrize("name", TAKEN)
def test_indices_alone_get_no_estimate(name: str) -> None:
    op, rest = TAKEN[name]
    x = rand(3, 4, 5)
    indices = sum(isinstance(t, Tensor) for a in rest for t in (a if isinstance(a, list) else [a]))
    assert back(op, op(x, *rest), x, *rest, estimated=(False, *[True] * indices)) == (None,)


# name → (operation, arguments after the value (3, 4), the last tensor of which is put)
PUT: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "scatter": (aten.scatter.src, (1, torch.tensor([[0, 3], [2, 1]]), rand(2, 2))),
    "scatter of rows": (aten.scatter.src, (0, torch.tensor([[0, 2, 1, 1]]), rand(1, 4))),
    "index_copy": (aten.index_copy.default, (1, torch.tensor([3, 0]), rand(3, 2))),
    "index_put": (aten.index_put.default, ([torch.tensor([2, 0])], rand(2, 4))),
    "index_put of a row": (aten.index_put.default, ([torch.tensor([2, 0])], rand(4))),
    "index_put further in": (aten.index_put.default, ([None, torch.tensor([2, 0])], rand(3, 2))),
    "index_put by a mask": (aten.index_put.default, ([torch.tensor([True, False, True])], rand(2, 4))),
    "masked_scatter": (aten.masked_scatter.default, (torch.tensor([True, False, True, True]), rand(9))),
    "masked_scatter of more": (aten.masked_scatter.default, (torch.tensor([[True], [False], [True]]), rand(3, 4))),
    "index_fill": (aten.index_fill.int_Tensor, (1, torch.tensor([3, 0]), torch.tensor(0.3, dtype=torch.float64))),
}


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("name", PUT)
def test_what_was_put_comes_back_from_its_place(name: str, varies: bool) -> None:
    op, rest = PUT[name]
    x, source = rand(3, 4), rest[-1]
    y = op(x, *rest)
    into, middle, piece = back(op, y, x, *rest, estimated=(True, False, True), varies=varies)
    assert middle is None
    kept = op(torch.ones_like(x), *rest[:-1], torch.zeros_like(source)) > 0
    torch.testing.assert_close(into, torch.where(kept, x, x if varies else 0))
    taken = torch.func.vjp(lambda s: op(x, *rest[:-1], s), source)[1](torch.ones_like(y))[0] > 0
    torch.testing.assert_close(piece, torch.where(taken, source, source if varies else 0))
    (only,) = back(op, y, x, *rest, estimated=(True, False, False), varies=varies)
    assert torch.equal(only, into)


RANKED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sort": (aten.sort.default, ()),
    "sort down": (aten.sort.default, (1, True)),
    "topk": (aten.topk.default, (2,)),
    "topk, the least": (aten.topk.default, (3, 1, False)),
}


@pytest.mark.parametrize("name", RANKED)
def test_what_was_sorted_comes_back_to_its_place(name: str) -> None:
    op, args = RANKED[name]
    x = rand(3, 4, 5)
    rule = find_rule(op)
    assert rule is not None
    values, indices = op(x, *args)
    call = ReverseCall((True,), (None, torch.zeros(1, 1, 1, dtype=torch.bool)))
    torch.testing.assert_close(rule.reverse([values, torch.zeros_like(values)], x, *args, context=call), x)
    estimate = torch.randn_like(values)
    dim = args[1] if op is aten.topk.default and len(args) > 1 else args[0] if args and op is aten.sort.default else -1
    expected = x.scatter(dim, indices, estimate)
    torch.testing.assert_close(rule.reverse([estimate, indices], x, *args, context=call), expected)


def test_a_number_that_was_put() -> None:
    x, index = rand(3, 4), torch.tensor([[0, 3], [2, 1]])
    for op, where in ((aten.scatter.value, index), (aten.index_fill.int_Scalar, index[0])):
        y = op(x, 1, where, 0.5)
        (into,) = back(op, y, x, 1, where, 0.5, estimated=(True, False))
        torch.testing.assert_close(into, torch.where(y == x, x, 0))


ADDED: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "scatter_add": (aten.scatter_add.default, (1, torch.tensor([[0, 0, 3], [2, 1, 2]]), rand(2, 3)), {}),
    "scatter_reduce": (aten.scatter_reduce.two, (1, torch.tensor([[0, 0, 3], [2, 1, 2]]), rand(2, 3), "sum"), {}),
    "index_add": (aten.index_add.default, (1, torch.tensor([0, 0, 3]), rand(3, 3)), {"alpha": 2.0}),
    "index_put": (aten.index_put.default, ([torch.tensor([2, 0, 2])], rand(3, 4), True), {}),
}


@pytest.mark.parametrize("name", ADDED)
def test_a_sum_in_places_is_shared_out_so_that_it_comes_back(name: str) -> None:
    op, rest, kwargs = ADDED[name]
    x = rand(3, 4)
    y = op(x, *rest, **kwargs)
    _, _, shares = back(op, y, x, *rest, estimated=(False, False, True), **kwargs)
    again = op(x, *[shares if isinstance(a, Tensor) and a.is_floating_point() else a for a in rest], **kwargs)
    torch.testing.assert_close(again, y)
    # A running total gets the estimate itself, as the other branch of a residual does.
    into, _, _ = back(op, y, x, *rest, estimated=(True, False, True), **kwargs)
    assert torch.equal(into, y)


@pytest.mark.parametrize("reduce", ["mean", "amax", "amin"])
def test_a_mean_or_maximum_in_places_is_handed_to_every_value(reduce: str) -> None:
    x, index, src = torch.zeros(3, 4).double(), torch.tensor([[0, 0, 3]]), rand(1, 3)
    y = aten.scatter_reduce.two(x, 1, index, src, reduce, include_self=False)
    _, _, found = back(
        aten.scatter_reduce.two, y, x, 1, index, src, reduce, estimated=(False, False, True), include_self=False
    )
    torch.testing.assert_close(found, y.gather(1, index))
    with pytest.raises(NotImplementedError, match="prod"):
        back(aten.scatter_reduce.two, y, x, 1, index, src, "prod", estimated=(False, False, True))


@pytest.mark.parametrize("name", [*TAKEN, *PUT])
def test_wrong_shapes_are_an_error(name: str) -> None:
    op, rest = TAKEN.get(name) or PUT[name]
    x = rand(3, 4, 5) if name in TAKEN else rand(3, 4)
    tensors = 1 + sum(isinstance(t, Tensor) for a in rest for t in (a if isinstance(a, list) else [a]))
    estimated = (True, *[False] * (tensors - 2), name in PUT) if tensors > 1 else (True,)
    with pytest.raises((RuntimeError, IndexError)):
        back(op, rand(*[s - 1 for s in op(x, *rest).shape]), x, *rest, estimated=estimated)


class Tokens(nn.Module):
    """A layer on every token, some of them taken or put, a layer."""

    index: Tensor

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function
        self.register_buffer("index", torch.tensor([3, 0, 3]))
        self.double()

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.b(self.function(self, self.a(x), *others))


def by_index(net: Tokens, h: Tensor) -> Tensor:
    return h.gather(1, net.index[None, :, None].expand(h.shape[0], 3, h.shape[2]))


def by_repeats(net: Tokens, h: Tensor) -> Tensor:
    return h.repeat_interleave(torch.tensor([1, 0, 0, 2, 0]), 1)


@pytest.mark.parametrize("function", [by_index, by_repeats], ids=lambda f: f.__name__)
def test_what_a_constant_index_does_not_take_is_unknown(function: Callable[..., Tensor]) -> None:
    net, x = Tokens(function), rand(2, 5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    assert torch.equal(rr(x)[0], net(x))
    _, right = rr.reconstruct(x)["a"]
    assert right[:, [1, 2, 4]].isnan().all()
    h = (net(x) - net.b.bias) @ net.b.weight
    order = [0, 1, 2] if function is by_index else [1, 0, 2]  # where the copies of token 3, 0 and 3 stand
    three, zero, again = (h[:, i] for i in order)
    for token, hidden in ((3, (three + again) / 2), (0, zero)):
        torch.testing.assert_close(right[:, token], (hidden - net.a.bias) @ net.a.weight)


def test_the_last_token_of_every_sentence() -> None:
    """An index that is an input: of the other tokens the forward value is taken."""
    net = Tokens(lambda net, h, lengths: h[torch.arange(h.shape[0]), lengths - 1])
    x, lengths = rand(3, 5, 4), torch.tensor([2, 5, 1])
    rr = racecar.Racecar(net, (x, torch.tensor([1, 1, 1])), layers="all")
    output, penalty = rr(x, lengths)
    assert torch.equal(output, net(x, lengths))
    hidden = net.a(x).clone()
    hidden[torch.arange(3), lengths - 1] = (output - net.b.bias) @ net.b.weight
    pairs = rr.reconstruct(x, lengths)
    torch.testing.assert_close(pairs["a"][1], (hidden - net.a.bias) @ net.a.weight)
    torch.testing.assert_close(penalty, sum(0.5 * ((a - b) ** 2).mean() for a, b in pairs.values()))


def test_tokens_that_are_kept_by_chance() -> None:
    """A masked autoencoder's shuffle: which tokens go on is drawn anew at every call."""

    def some(net: Tokens, h: Tensor) -> Tensor:
        kept = torch.rand(h.shape[:2]).argsort(1)[:, :2]
        return h.gather(1, kept[:, :, None].expand(-1, -1, h.shape[2]))

    net, x = Tokens(some), rand(3, 5, 4)
    rr = racecar.Racecar(net, x, layers="all")
    for seed in range(3):
        torch.manual_seed(seed)
        _, right = rr.reconstruct(x)["a"]
        torch.manual_seed(seed)
        kept = torch.rand(3, 5).argsort(1)[:, :2]
        torch.manual_seed(seed)
        estimate = (net(x) - net.b.bias) @ net.b.weight
        hidden = net.a(x).scatter(1, kept[:, :, None].expand(-1, -1, 6), estimate)
        torch.testing.assert_close(right, (hidden - net.a.bias) @ net.a.weight)


class Graph(Tokens):
    """One step of message passing: the messages of a node's neighbours are summed."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:  # type: ignore[override]
        messages = self.a(x).index_select(0, edges[0])
        return self.b(torch.zeros(x.shape[0], 6, dtype=x.dtype).index_add(0, edges[1], messages))


def test_messages_along_edges_that_are_an_input() -> None:
    net, x = Graph(torch.relu), rand(4, 4)
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 2]])
    rr = racecar.Racecar(net, (x, edges[:, [1, 0, 3, 2]]), layers="all")
    output, _ = rr(x, edges)
    assert torch.equal(output, net(x, edges))
    h = (output - net.b.bias) @ net.b.weight
    hidden = torch.stack([h[1], (h[0] + h[2] / 2) / 2, h[2] / 2, net.a(x)[3]])  # node 3 sends nothing
    torch.testing.assert_close(rr.reconstruct(x, edges)["a"][1], (hidden - net.a.bias) @ net.a.weight)
