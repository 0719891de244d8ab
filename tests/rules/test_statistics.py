"""Norms and deviations: the estimate has the estimated size and the forward direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten

CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "norm of everything": (aten.linalg_vector_norm.default, (), {}),
    "norm": (aten.linalg_vector_norm.default, (2, [1], True), {}),
    "norm of order 1": (aten.linalg_vector_norm.default, (1, [-1]), {}),
    "largest": (aten.linalg_vector_norm.default, (float("inf"), [0, 1], True), {}),
    "old norm": (aten.norm.ScalarOpt_dim, (3, [1]), {}),
    "std": (aten.std.dim, ([1],), {}),
    "std of everything": (aten.std.default, (), {}),
    "std, not corrected": (aten.std.correction, ([0],), {"correction": 0, "keepdim": True}),
    "var": (aten.var.dim, ([1], False, True), {}),
    "var of everything": (aten.var.correction, (), {}),
}


def x() -> Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_has_the_statistic_it_was_told(name: str) -> None:
    op, args, kwargs = CASES[name]
    rule = find_rule(op)
    assert rule is not None
    extra = {"context": racecar.ReverseCall((True,))} if rule.context else {}
    told = op(x(), *args, **kwargs) * 0.3 + 0.5
    back = rule.reverse(told, x(), *args, **kwargs, **extra)
    torch.testing.assert_close(op(back, *args, **kwargs), told)
    same = rule.reverse(op(x(), *args, **kwargs), x(), *args, **kwargs, **extra)
    torch.testing.assert_close(same, x())


@pytest.mark.parametrize("op", [aten.std_mean.correction, aten.var_mean.correction], ids=str)
def test_scale_and_mean(op: Any) -> None:
    scale, mean = op(x(), [1], keepdim=True)
    rule = find_rule(op)
    assert rule is not None
    told = [scale * 2, mean - 1]
    back = rule.reverse(told, x(), [1], keepdim=True, context=racecar.ReverseCall((True,), (None, None)))
    torch.testing.assert_close(list(op(back, [1], keepdim=True)), told)
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    context = racecar.ReverseCall((True,), (None, nothing))
    back = rule.reverse([scale * 2, torch.zeros_like(mean)], x(), [1], keepdim=True, context=context)
    torch.testing.assert_close(list(op(back, [1], keepdim=True)), [scale * 2, mean])


def test_a_negative_estimate_of_a_scale_is_none_of_a_scale() -> None:
    rule = find_rule(aten.linalg_vector_norm.default)
    assert rule is not None
    assert not rule.reverse(torch.tensor(-1.0, dtype=torch.float64), x()).any()


class Pooled(nn.Module):
    """Mean and deviation over time, as speaker networks pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 3, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.b(torch.cat((h.mean(2), h.std(2)), 1))


def test_pooling_by_mean_and_deviation_trains() -> None:
    torch.manual_seed(0)
    net, x = Pooled(), torch.randn(4, 2, 9)
    rr = racecar.Racecar(net, x, layers="all")
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    penalty.backward()
    assert net.a.weight.grad is not None
    assert net.a.weight.grad.isfinite().all()
    assert not rr.reconstruct(x)["a"][1].isnan().any()
