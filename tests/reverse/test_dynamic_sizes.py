"""Values whose size depends on values: edges that a graph network drops, tokens that a router sends to an expert."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import racecar


class Gathered(nn.Module):
    """Rows are chosen by an integer input; the network sums them up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        chosen = (kind > 1).nonzero()[:, 0]
        return self.b(torch.zeros_like(h).index_add(0, chosen, h[chosen]))


class Masked(Gathered):
    """The same by a mask."""

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        mask = kind > 1
        return self.b(torch.zeros_like(h).index_put((mask,), h[mask]))


class Kept(Gathered):
    """What is larger than the mean stays."""

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.zeros_like(h).masked_scatter(h > 0, torch.masked_select(h, h > 0)))


class Dense(Gathered):
    """The same without a size that depends on values."""

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * (kind > 1).unsqueeze(1))


def call(*kinds: int) -> tuple[Tensor, Tensor]:
    return torch.randn(len(kinds), 4, generator=torch.Generator().manual_seed(0)), torch.tensor(kinds)


@pytest.mark.parametrize("kind", [Gathered, Masked, Kept])
def test_a_program_holds_for_other_numbers_of_chosen_rows(kind: type[Gathered]) -> None:
    torch.manual_seed(0)
    net = kind()
    rr = racecar.Racecar(net, call(0, 1, 2, 3))
    program = rr._program
    for kinds in ((0, 1, 2, 3), (2, 2, 2, 2), (0, 0, 0, 3)):
        output, penalty = rr(*call(*kinds))
        assert torch.equal(output, net(*call(*kinds)))
        assert penalty.isfinite()
    assert rr._program == program


def test_estimates_are_those_of_the_rows_that_were_chosen() -> None:
    torch.manual_seed(0)
    net, dense = Gathered(), Dense()
    dense.load_state_dict(net.state_dict())
    x = call(0, 3, 2, 1)
    for (left, right), (left2, right2) in zip(
        racecar.Racecar(net, call(2, 1, 2, 3)).reconstruct(*x).values(),
        racecar.Racecar(dense, call(2, 1, 2, 3)).reconstruct(*x).values(),
        strict=True,
    ):
        torch.testing.assert_close(left, left2)
        torch.testing.assert_close(right[1:3], right2[1:3])


class Unique(Gathered):
    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        return self.b(self.a(x).unique(dim=0))


def test_what_has_no_rule_is_named() -> None:
    with pytest.raises(racecar.IrreversibleError, match=r"unique_dim.* in module"):
        racecar.Racecar(Unique(), call(0, 1, 2, 3))
