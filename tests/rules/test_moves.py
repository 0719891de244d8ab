"""Operations that move, repeat, window or reduce values: undone where they can be, averaged where copies disagree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten


def back(op: Any, estimate: Any, *args: Any, known: Tensor | None = None, **kwargs: Any) -> Any:
    rule = find_rule(op)
    assert rule is not None
    if rule.context:
        kwargs["context"] = racecar.ReverseCall((True,), (known,))
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
    values, indices = aten.max.dim(x, 2, keepdim)
    found = back(aten.max.dim, [values, torch.zeros_like(indices)], x, 2, keepdim)
    torch.testing.assert_close(found, (values if keepdim else values[:, :, None]).expand(x.shape))


def test_a_scaled_product_with_a_bias() -> None:
    bias, a, gate = rand(3), rand(2, 3), rand(2, 1)
    y = torch.addcmul(bias, a, gate, value=0.5)
    _, found, _ = back(aten.addcmul.default, y, bias, a, gate, value=0.5)
    torch.testing.assert_close(found, a * (0.5 * gate) ** 2)
