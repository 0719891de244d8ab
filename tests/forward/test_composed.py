"""Operations that torch composes of others are mirrored as what they are composed of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.rules import registry

aten = torch.ops.aten
C = torch.linspace(-1, 2, 18, dtype=torch.float64).reshape(3, 6)

# The operation, and the same in operations that have rules.
COMPOSED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "outer": (lambda h: torch.outer(h[:, 0], C[0]), lambda h: h[:, 0].view(-1, 1) * C[0]),
    "inner": (lambda h: torch.inner(h, C), lambda h: h @ C.t()),
    "vecdot": (lambda h: torch.linalg.vecdot(h, C[0]).unsqueeze(1), lambda h: (h * C[0]).sum(-1).unsqueeze(1)),
    "diff": (torch.diff, lambda h: h[:, 1:] - h[:, :-1]),
    "multi_dot": (lambda h: torch.linalg.multi_dot((h, C.t(), C)), lambda h: h @ C.t() @ C),
    "meshgrid": (lambda h: torch.meshgrid(h[0], C[0], indexing="ij")[0], lambda h: h[0].view(-1, 1).expand(6, 6)),
    "linalg_diagonal": (torch.linalg.diagonal, torch.diagonal),
    "row_stack": (lambda h: torch.row_stack((h, h)), lambda h: torch.cat((h, h))),
    "normalised": (
        lambda h: F.cosine_similarity(h, C[0], dim=1).unsqueeze(1),
        lambda h: (F.normalize(h, dim=1, eps=1e-8) * F.normalize(C[:1], dim=1)).sum(1, keepdim=True),
    ),
}


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.function = nn.Linear(6, 6), function
        self.b = nn.Linear(function(torch.zeros(4, 6, dtype=torch.float64)).shape[-1], 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(torch.sigmoid(self.a(x))))


def penalty(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(the penalty, its gradient for the first layer)."""
    net = Between(function)
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rr = racecar.Racecar(net, x, layers=["a", "b"])
    output, value = rr(x)
    assert torch.equal(output, net(x))
    return value, torch.autograd.grad(value, net.a.weight)[0]


@pytest.mark.parametrize("name", COMPOSED)
def test_an_operation_is_mirrored_as_its_parts_are(name: str) -> None:
    whole, parts = COMPOSED[name]
    torch.testing.assert_close(penalty(whole), penalty(parts))


def test_another_batch_size_goes_through_the_same_program() -> None:
    net = Between(torch.diff)
    rr = racecar.Racecar(net, torch.randn(4, 6, dtype=torch.float64))
    x = torch.randn(9, 6, dtype=torch.float64)
    assert torch.equal(rr(x)[0], net(x))


def test_a_rule_for_the_whole_is_preferred() -> None:
    racecar.register_reverse(aten.diff.default, lambda estimate, x: torch.ones_like(x), range="within")
    try:
        net = Between(torch.diff)
        x = torch.randn(4, 6, dtype=torch.float64)
        _, back = racecar.Racecar(net, x, layers=["a", "b"]).reconstruct(x)["a"]
        torch.testing.assert_close(back, ((1 - net.a.bias) @ net.a.weight).expand(4, 6))
    finally:
        del registry._RULES[aten.diff.default]
