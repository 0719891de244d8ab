"""Sequences of many lengths through a mask of what is known: exported once, mirrored for each, kept within bounds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar


class First(nn.Module):
    """Tokens, of which the head sees the first; attention between them, so that a mask passes through all rules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        return self.head(torch.tanh(self.out(h))[:, 0] + h[:, -1])


def tokens(length: int, batch: int = 4) -> Tensor:
    return torch.randn(batch, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(length))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    export = racecar.program.export_forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        count.append(1)
        return export(*args, **kwargs)

    monkeypatch.setattr(racecar.program, "export_forward", counted)
    return count


def test_every_length_is_as_if_derived_for_it_alone(exports: list[int]) -> None:
    torch.manual_seed(0)
    model = First().double()
    rr = racecar.Racecar(model, tokens(5), layers="all")
    for length in (3, 7, 4, 9, 3, 12):
        x = tokens(length)
        output, distances = rr.distances(x)
        before = len(exports)
        alone = racecar.Racecar(model, x, layers="all")
        del exports[before:]
        torch.testing.assert_close(output, model(x))
        torch.testing.assert_close(distances, alone.distances(x)[1])
        for name, (left, right) in rr.reconstruct(x).items():
            torch.testing.assert_close((left, right), alone.reconstruct(x)[name], equal_nan=True)
    assert len(exports) == 2  # of the example, and once for any length


def test_other_batches_need_no_program_of_their_own(exports: list[int]) -> None:
    rr = racecar.Racecar(First().double(), tokens(5), layers="all")
    for batch in (2, 3, 7, 1):
        for length in (5, 6):
            rr(tokens(length, batch))
    assert sum(len(derived.programs) for derived in rr._palindromes[True]) <= 4
    assert len(exports) <= 4


def test_programs_of_lengths_are_kept_within_bounds(exports: list[int]) -> None:
    rr = racecar.Racecar(First().double(), tokens(5), layers="all", verify=False)
    for length in range(3, 80):
        rr(tokens(length))
    assert sum(len(derived.programs) for derived in rr._palindromes[True]) <= 65
    assert len(exports) == 2
