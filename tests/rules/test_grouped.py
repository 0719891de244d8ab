"""Products by groups of rows, as mixtures of experts compute them: the adjoint with each group's own matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

pytest.importorskip("transformers.integrations.moe", reason="transformers is not there: its operation is not tested")
from racecar.rules.linear import grouped_mm


def test_adjoint() -> None:
    torch.manual_seed(0)
    x, weight, estimate = torch.randn(7, 4), torch.randn(3, 4, 5), torch.randn(7, 5)
    offsets = torch.tensor([2, 2, 7], dtype=torch.int32)  # the second group is empty
    rule = find_rule(grouped_mm)
    assert rule is not None
    back = rule.reverse(estimate, x, weight, offsets, context=racecar.ReverseCall((True, False, False)))
    torch.testing.assert_close((grouped_mm(x, weight, offsets) * estimate).sum(), (x * back).sum())


class Experts(nn.Module):
    """Every row goes to the expert that it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.router, self.b = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(5, 2)
        self.weight = nn.Parameter(torch.randn(3, 6, 5) / 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        chosen, order = self.router(h).argmax(1).sort()
        offsets = torch.nn.functional.one_hot(chosen, 3).sum(0).cumsum(0).to(torch.int32)
        out = torch.ops.transformers.grouped_mm_fallback(h[order], self.weight, offsets)
        return self.b(torch.relu(out[order.argsort()]))


def test_experts_are_a_layer_for_every_batch() -> None:
    torch.manual_seed(0)
    net, x = Experts(), torch.randn(8, 4)
    rr = racecar.Racecar(net, x, layers="all")
    assert len(rr.layers) == 3
    for batch in (x, torch.randn(5, 4)):
        assert torch.equal(rr(batch)[0], net(batch))
    _, back = rr.reconstruct(x)["a"]
    h = torch.relu(net.a(x))
    chosen = net.router(h).argmax(1)
    inner = torch.relu((net(x) - net.b.bias) @ net.b.weight)
    raw = torch.relu(torch.stack([net.weight[c] @ row for c, row in zip(chosen, inner, strict=True)]))
    torch.testing.assert_close(back, (raw - net.a.bias) @ net.a.weight)
    rr(x)[1].backward()
    assert net.weight.grad is not None
    assert net.weight.grad.abs().sum() > 0
