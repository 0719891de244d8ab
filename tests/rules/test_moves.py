"""Operations that move, repeat, window or reduce values: undone where they can be, averaged where copies disagree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten


def back(
    op: Any,
    estimate: Any,
    *args: Any,
    known: Tensor | None = None,
    estimated: tuple[bool, ...] = (True,),
    **kwargs: Any,
) -> Any:
    rule = find_rule(op)
    assert rule is not None
    if rule.context:
        kwargs["context"] = racecar.ReverseCall(estimated, (known,))
    return rule.reverse(estimate, *args, **kwargs)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


INVERTIBLE = {
    "roll": (aten.roll.default, ([1, -2], [1, 2])),
    "roll of all": (aten.roll.default, ([3],)),
    "flip": (aten.flip.default, ([0, 2],)),
    "swapaxes": (aten.swapaxes.default, (0, 2)),
    "swapdims": (aten.swapdims.default, (1, 2)),
    "repeat": (aten.repeat.default, ([2, 1, 1, 3],)),
    "unfold": (aten.unfold.default, (2, 3, 1)),
    "whole slice": (aten.slice.Tensor, (1, 0, 99)),
    "tile": (aten.tile.default, ([2, 3],)),
    "tile of more": (aten.tile.default, ([2, 1, 3, 2],)),
    "repeat_interleave": (aten.repeat_interleave.self_int, (3, -2)),
    "repeat_interleave of all": (aten.repeat_interleave.self_int, (2,)),
    "channel shuffle": (aten.channel_shuffle.default, (2,)),
    "broadcast_to": (aten.broadcast_to.default, ([3, 2, 4, 5],)),
    "cumsum": (aten.cumsum.default, (1,)),
    "cumsum of the last": (aten.cumsum.default, (-1,)),
}


@pytest.mark.parametrize("name", INVERTIBLE)
def test_the_value_itself_comes_back(name: str) -> None:
    op, args = INVERTIBLE[name]
    x = rand(2, 4, 5)
    torch.testing.assert_close(back(op, op(x, *args), x, *args), x)


def test_what_was_expanded_is_the_mean_of_its_copies_that_are_known() -> None:
    x, estimate = rand(2, 1, 3), rand(4, 2, 5, 3)
    found = back(aten.expand.default, estimate, x, [4, 2, 5, 3])
    torch.testing.assert_close(found, estimate.mean((0, 2))[:, None])
    known = torch.zeros(1, 1, 5, 1, dtype=torch.bool)
    known[0, 0, 1:3] = True
    found = back(aten.expand.default, estimate, x, [4, 2, 5, 3], known=known)
    torch.testing.assert_close(found, estimate[:, :, 1:3].mean((0, 2))[:, None])


COPIES = {
    "repeat": (aten.repeat.default, ([2, 1, 3],)),
    "tile": (aten.tile.default, ([2, 3],)),
    "repeat_interleave": (aten.repeat_interleave.self_int, (3, 1)),
    "repeat_interleave of all": (aten.repeat_interleave.self_int, (2,)),
}


@pytest.mark.parametrize("name", COPIES)
def test_what_was_repeated_is_the_mean_of_its_copies_that_are_known(name: str) -> None:
    op, args = COPIES[name]
    x = rand(1, 2, 3)
    y = op(x, *args)
    estimate, known = torch.randn_like(y), torch.rand(y.shape) > 0.4
    found = back(op, torch.where(known, estimate, 0), x, *args, known=known)
    spread = lambda t: torch.func.vjp(lambda v: op(v, *args), x)[1](t)[0]  # noqa: E731
    count = spread(known.to(x.dtype))
    torch.testing.assert_close(found, spread(torch.where(known, estimate, 0)) / count.clamp(min=1))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channels_are_shuffled_back(groups: int) -> None:
    x = rand(2, 6, 4, 3)
    assert torch.equal(back(aten.channel_shuffle.default, torch.channel_shuffle(x, groups), x, groups), x)


@pytest.mark.parametrize(
    ("op", "args"), [(aten.diagonal.default, (1, 1, 2)), (aten.tril.default, (-1,)), (aten.triu.default, ())]
)
def test_what_was_read_comes_back_to_its_place(op: Any, args: tuple[Any, ...]) -> None:
    x = rand(2, 4, 5)
    taken = torch.func.vjp(lambda t: op(t, *args), x)[1](op(torch.ones_like(x), *args))[0]
    torch.testing.assert_close(back(op, op(x, *args), x, *args), x * taken)


def test_a_running_sum_of_which_some_are_known() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).cumsum(1)[:, 1:4])

    torch.manual_seed(0)
    net, x = Sums().double(), rand(2, 6, 4)
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["a"]
    assert right[:, [0, 1, 4, 5]].isnan().all()  # summands 2 and 3 alone are differences of known sums
    sums = (net(x) - net.b.bias) @ net.b.weight
    torch.testing.assert_close(right[:, 2:4], (sums[:, 1:] - sums[:, :-1] - net.a.bias) @ net.a.weight)


def test_windows_are_averaged_where_they_overlap() -> None:
    x = rand(2, 3, 6, 5)
    args = ([3, 3], [1, 1], [1, 1], [2, 2])
    columns = aten.im2col(x, *args)
    torch.testing.assert_close(back(aten.im2col.default, columns, x, *args), x)
    doubled = columns.clone()
    doubled[:, :, 0] += 9.0  # the first window alone sees the corner, and shares the rest
    changed = back(aten.im2col.default, doubled, x, *args) - x
    assert changed[0, 0, 0, 0].item() == pytest.approx(9.0)
    assert changed[0, 0, 1, 1].item() == pytest.approx(9.0 / 4)


def test_a_sum_of_windows_is_shared_out_so_that_it_comes_back() -> None:
    columns, args = rand(2, 27, 9), ([6, 5], [3, 3], [1, 1], [1, 1], [2, 2])
    image = aten.col2im(columns, *args)
    shares = back(aten.col2im.default, image, columns, *args)
    torch.testing.assert_close(aten.col2im(shares, *args), image)


def test_windows_that_leave_gaps_leave_the_gaps_unknown() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            windows = self.a(x).unfold(1, 2, 3)
            return self.b(windows.flatten(2))

    net, x = Strided(), torch.randn(2, 9, 4)
    _, right = racecar.Racecar(net, x, layers="all").reconstruct(x)["a"]
    unknown = right.isnan().all(-1)[0]
    assert unknown.tolist() == [False, False, True] * 3
    assert not right[:, ~unknown].isnan().any()


@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions(keepdim: bool) -> None:
    x = rand(2, 3, 4, 5)
    for op in (aten.amax.default, aten.sum.dim_IntList):
        y = op(x, [1, 3], keepdim)
        found = back(op, y, x, [1, 3], keepdim)
        spread = (y if keepdim else y[:, None, :, None]).expand(x.shape)
        torch.testing.assert_close(found, spread / 15 if op is aten.sum.dim_IntList else spread)
    for op in (aten.max.dim, aten.min.dim):
        values, indices = op(x, 2, keepdim)
        found = back(op, [values, torch.zeros_like(indices)], x, 2, keepdim)
        torch.testing.assert_close(found, (values if keepdim else values[:, :, None]).expand(x.shape))
    for dims in ([1, 3], [-2], [0, 1, 2, 3]):
        y = aten.logsumexp.default(x, dims, keepdim)
        found = back(aten.logsumexp.default, y, x, dims, keepdim)
        assert found.shape == x.shape
        torch.testing.assert_close(aten.logsumexp.default(found, dims, keepdim), y)


def test_reductions_of_everything() -> None:
    x = rand(2, 3, 4)
    for op in (aten.sum.default, aten.mean.default, aten.max.default, aten.min.default):
        found = back(op, op(x), x)
        assert found.shape == x.shape
        torch.testing.assert_close(op(found), op(x))
        assert (found == found[0, 0, 0]).all()


def test_a_scaled_product_with_a_bias() -> None:
    bias, a, gate = rand(3), rand(2, 3), rand(2, 1)
    y = torch.addcmul(bias, a, gate, value=0.5)
    _, found, _ = back(aten.addcmul.default, y, bias, a, gate, value=0.5, estimated=(False, True, False))
    torch.testing.assert_close(found, a * (0.5 * gate) ** 2)
