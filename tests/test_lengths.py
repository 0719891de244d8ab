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


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """One entry for every call of a function that deriving calls."""
    count: list[int] = []
    function = getattr(racecar.program, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        count.append(1)
        return function(*args, **kwargs)

    monkeypatch.setattr(racecar.program, name, counting)
    return count


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return counted(monkeypatch, "export_forward")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return counted(monkeypatch, "build")


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


@pytest.mark.parametrize("batch", [1, 4])
def test_a_further_length_needs_other_masks_and_no_other_graph(graphs: list[int], batch: int) -> None:
    rr = racecar.Racecar(First().double(), tokens(5, batch), layers="all")
    rr(tokens(6, batch))
    before = len(graphs)
    for length in range(3, 40):
        rr(tokens(length, batch))
    assert len(graphs) == before


class Two(First):
    """The head sees the first two tokens and the last two: of four tokens all, of three one of them twice."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.out(torch.tanh(self.embed(x))))
        ends = torch.cat([h[:, :2], h[:, -2:]], 1)
        return self.head(torch.tanh(ends))


class Merged(First):
    """Tokens and batch in one dimension, so that what is known hangs on the batch too."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x.transpose(0, 1).reshape(-1, 6)))
        return self.head(torch.tanh(self.out(h)).view(x.shape[1], x.shape[0], 8)[0])


def test_other_lengths_and_batches_where_both_are_one_dimension(graphs: list[int]) -> None:
    torch.manual_seed(0)
    model = Merged().double()
    rr = racecar.Racecar(model, tokens(5), layers="all")
    rr(tokens(6))
    for length, batch in ((7, 4), (3, 4), (7, 2), (5, 3), (6, 6)):
        x, before = tokens(length, batch), len(graphs)
        found = rr.distances(x)
        assert len(graphs) == before
        torch.testing.assert_close(found, racecar.Racecar(model, x, layers="all").distances(x))
        assert rr.reconstruct(x)["embed"][1].isnan().any(1).sum() == (length - 1) * batch


class Inner(First):
    """Two branches that see the second and third token, and the last but one and last but two: of four the same."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.embed(x))[:, 1:3]
        last = torch.tanh(self.out(x[..., [0, 1, 2, 3, 4, 5, 0, 1]]))[:, -3:-1]
        return self.head(torch.tanh(first + last))


@pytest.mark.parametrize("lengths", [(7, 4, 6, 5, 4), (4, 7, 6, 4), (4, 4, 5)])
def test_lengths_at_which_masks_are_equal(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Inner().double()
    rr = racecar.Racecar(model, tokens(lengths[0]), layers="all")
    for length in lengths:
        x = tokens(length)
        alone = racecar.Racecar(model, x, layers="all")
        torch.testing.assert_close(rr.distances(x), alone.distances(x))
        pairs, expected = rr.reconstruct(x), alone.reconstruct(x)
        assert all(torch.equal(pairs[n][1].isnan(), expected[n][1].isnan()) for n in expected)


@pytest.mark.parametrize("lengths", [(6, 5, 9, 4, 7, 3), (4, 6, 5, 3, 8), (3, 4, 5, 6)])
def test_lengths_of_which_more_is_known_or_less(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Two().double()
    rr = racecar.Racecar(model, tokens(lengths[0]), layers="all")
    for length in lengths:
        x = tokens(length)
        alone = racecar.Racecar(model, x, layers="all")
        torch.testing.assert_close(rr.distances(x), alone.distances(x))
        assert rr.reconstruct(x)["embed"][1].isnan().any(2).all(0).sum() == max(0, length - 4)


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
