"""What a select or a slice drops is unknown in the reverse pass: masked out of the loss, not invented."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar


class Tokens(nn.Module):
    """Two layers on every token, the answer from the first one alone: a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.tanh(self.a(x)))
        return self.head(torch.tanh(h[:, 0]))


def by_hand(net: Tokens, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The pairs for the first token: (input of head, of b, of a)."""
    h1 = torch.tanh(net.a(x[:, 0]))
    h2 = torch.tanh(net.b(h1))
    r2 = torch.tanh((net.head(h2) - net.head.bias) @ net.head.weight)
    r1 = torch.tanh((r2 - net.b.bias) @ net.b.weight)
    return [(x[:, 0], (r1 - net.a.bias) @ net.a.weight), (h1, r1), (h2, r2)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_select_is_masked_out_of_the_loss(reduction: racecar.options.Reduction) -> None:
    torch.manual_seed(0)
    net, x = Tokens().double(), torch.randn(3, 7, 4, dtype=torch.float64)
    rr = racecar.Racecar(net, x, layers="all", weight=[1.0, 2.0, 3.0], reduction=reduction)
    _, penalty = rr(x)
    expected = torch.zeros((), dtype=torch.float64)
    for weight, (left, right) in zip((1, 2, 3), by_hand(net, x), strict=True):
        squared = (left - right) ** 2
        expected = expected + weight * 0.5 * (squared.sum() if reduction == "sum" else squared.mean())
    torch.testing.assert_close(penalty, expected)
    gradients = torch.autograd.grad(penalty, list(net.parameters()))
    for found, wanted in zip(gradients, torch.autograd.grad(expected, list(net.parameters())), strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_is_unknown_is_shown_as_nan_and_counted() -> None:
    net, x = Tokens(), torch.randn(3, 7, 4)
    rr = racecar.Racecar(net, x, layers="all")
    left, right = rr.reconstruct(x)["a"]
    assert left.shape == right.shape == (3, 7, 4)
    assert not right[:, 0].isnan().any()
    assert right[:, 1:].isnan().all()
    assert [s.known for s in rr.explain().steps if s.compared is not None] == pytest.approx([1 / 7, 1 / 7, 1])
    assert "14.29% of it" in str(rr.explain())


def test_other_batches_and_other_numbers_of_tokens() -> None:
    torch.manual_seed(0)
    net = Tokens().double()
    rr = racecar.Racecar(net, torch.randn(3, 7, 4, dtype=torch.float64), layers="all")
    for shape in ((1, 7, 4), (8, 7, 4), (2, 5, 4), (3, 7, 4), (4, 9, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        expected = sum(0.5 * ((left - right) ** 2).mean() for left, right in by_hand(net, x))
        torch.testing.assert_close(rr(x)[1], expected)


class Merging(nn.Module):
    """Swin's patch merging: four slices that together hold everything."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embed, self.merge, self.count = nn.Linear(3, 4), nn.Linear(4 * count, 6), count

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        parts = [h[:, 0::2, 0::2], h[:, 1::2, 0::2], h[:, 0::2, 1::2], h[:, 1::2, 1::2]][: self.count]
        return self.merge(torch.cat(parts, -1))


def test_slices_that_hold_everything_are_put_together() -> None:
    torch.manual_seed(0)
    net, x = Merging(4).double(), torch.randn(2, 4, 6, 3, dtype=torch.float64)
    pairs = racecar.Racecar(net, x, layers="all").reconstruct(x)
    raw = (net(x) - net.merge.bias) @ net.merge.weight
    h = torch.empty(2, 4, 6, 4, dtype=torch.float64)
    for i, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        h[:, row::2, column::2] = torch.tanh(raw[..., 4 * i : 4 * i + 4])
    torch.testing.assert_close(pairs["embed"][1], (h - net.embed.bias) @ net.embed.weight)


def test_slices_that_do_not_leave_the_rest_unknown() -> None:
    net, x = Merging(3), torch.randn(2, 4, 6, 3)
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["embed"]
    unknown = torch.zeros(2, 4, 6, 3, dtype=torch.bool)
    unknown[:, 1::2, 1::2] = True
    assert torch.equal(right.isnan(), unknown)


class Shared(nn.Module):
    """A value used whole by one branch and in part by another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) + self.c(h[:, 2:5])


def test_two_estimates_of_which_one_is_partial_are_averaged_where_both_are_known() -> None:
    torch.manual_seed(0)
    net, x = Shared().double(), torch.randn(3, 4, dtype=torch.float64)
    _, right = racecar.Racecar(net, x, layers=["a"], start="").reconstruct(x)["a"]
    output = net(x)
    whole = (output - net.b.bias) @ net.b.weight
    part = (output - net.c.bias) @ net.c.weight
    mean = whole.clone()
    mean[:, 2:5] = (whole[:, 2:5] + part) / 2
    torch.testing.assert_close(right, (mean - net.a.bias) @ net.a.weight)


class Halves(nn.Module):
    """A split of which only the second piece goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).chunk(2, -1)[1])


def test_the_adjoint_of_a_layer_of_which_some_outputs_are_known_uses_those_rows() -> None:
    torch.manual_seed(0)
    net, x = Halves().double(), torch.randn(3, 4, dtype=torch.float64)
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["a"]
    h = (net(x) - net.b.bias) @ net.b.weight
    torch.testing.assert_close(right, (h - net.a.bias[3:]) @ net.a.weight[3:])


def test_the_same_for_a_convolution() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Channels(), nn.Conv2d(2, 3, 1)).double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    _, right = racecar.Racecar(net, x).reconstruct(x)["0"]
    h = F.conv_transpose2d(net(x) - net[2].bias.view(-1, 1, 1), net[2].weight)
    kept = net[0].weight[1:3]
    torch.testing.assert_close(right, F.conv_transpose2d(h - net[0].bias[1:3].view(-1, 1, 1), kept, padding=1))


class Channels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:3]


class Index(nn.Module):
    """Tokens taken by an index, one of them twice."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("index", torch.tensor([3, 0, 3]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.index_select(self.a(x), 1, self.index))


@pytest.mark.parametrize("subscripts", [False, True])
def test_what_an_index_takes_twice_is_averaged(subscripts: bool) -> None:
    torch.manual_seed(0)
    net, x = Index().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    if subscripts:
        net.forward = lambda x: net.b(net.a(x).transpose(0, 1)[net.index].transpose(0, 1))  # type: ignore[method-assign]
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["a"]
    h = (net(x) - net.b.bias) @ net.b.weight
    back = lambda h: (h - net.a.bias) @ net.a.weight  # noqa: E731
    assert right[:, [1, 2, 4]].isnan().all()
    torch.testing.assert_close(right[:, 0], back(h[:, 1]))
    torch.testing.assert_close(right[:, 3], back((h[:, 0] + h[:, 2]) / 2))


def test_a_named_layer_to_which_nothing_comes_back_is_one_clear_error() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.gate, self.inner, self.last = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.value(x) * torch.sigmoid(self.gate(torch.tanh(self.inner(x)))))

    x = torch.randn(3, 4)
    with pytest.raises(racecar.IrreversibleError, match="no estimate comes back to the input of 'gate'"):
        racecar.Racecar(Gated(), x, layers=["value", "gate"], start="last")
    rr = racecar.Racecar(Gated(), x)  # by default those that something comes back to
    assert rr.layers == ("value", "last")


def test_masks_follow_the_decoder_compilation_and_copies() -> None:
    import copy

    torch.manual_seed(0)
    net, x = Tokens(), torch.randn(3, 7, 4)
    plain = racecar.Racecar(net, x, layers="all")
    untied = racecar.Racecar(net, x, layers="all", decoder=copy.deepcopy(net))
    for rr in (untied, copy.deepcopy(plain), torch.compile(plain, backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(rr(x)[1], plain(x)[1])
    assert math.isfinite(plain(x)[1].item())


class WritesInPlace(nn.Module):
    """Part of an activation overwritten by another one, as position encodings and caches are."""

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.a, self.b, self.last, self.fresh = nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(6, 3), fresh

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.fresh:
            h, whole = x.new_zeros(x.shape[0], 6), h
            h[:, :] = whole
        h[:, 1:3] = self.b(x)
        h[:, 5] += 1
        return self.last(h)


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_written_in_place_comes_back_from_its_place(fresh: bool) -> None:
    torch.manual_seed(0)
    net, x = WritesInPlace(fresh).double(), torch.randn(3, 4, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    output, _ = rr(x)
    torch.testing.assert_close(output, net(x))
    found = torch.autograd.grad(output.sum(), list(net.parameters()))
    for a, b in zip(found, torch.autograd.grad(net(x).sum(), list(net.parameters())), strict=True):
        torch.testing.assert_close(a, b)
    _, right = rr.reconstruct(x)["a"]
    h = (output - net.last.bias) @ net.last.weight
    h[:, 5] -= 1
    rest = [0, 3, 4, 5]
    one = (h[:, rest] - net.a.bias[rest]) @ net.a.weight[rest]
    other = (h[:, 1:3] - net.b.bias) @ net.b.weight
    torch.testing.assert_close(right, (one + other) / 2)


class Picking(nn.Module):
    """The same operation on three inputs, each with indices of its own."""

    PICKED = ([0, 2, 1, 4], [1, 1, 1, 1], [3, 0, 0, 3])

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        for i, picked in enumerate(self.PICKED):
            self.register_buffer(f"picked_{i}", torch.tensor(picked))

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [
            torch.tanh(self.layers[i](x)).index_select(1, self.get_buffer(f"picked_{i}")) for i, x in enumerate(inputs)
        ]
        return torch.tanh(self.layers[3](torch.cat(parts, 2).unflatten(2, (3, 4))))


def test_what_one_operation_leaves_unknown_says_nothing_of_another_with_other_indices() -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.randn(3, 5, 4) for _ in range(3))
    rr = racecar.Racecar(Picking(), inputs, layers="all")
    for name, picked in zip(("layers.0", "layers.1", "layers.2"), Picking.PICKED, strict=True):
        _, estimate = rr.reconstruct(*inputs)[name]
        assert {i for i in range(5) if not estimate[:, i].isnan().any()} == set(picked)
