"""Pairs and tasks from hand-made simulations."""

import itertools

import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.forecasting import data
from racecar.study.forecasting.config import QUICK


def numbered(simulations: int, frames: int) -> torch.Tensor:
    """Density 100 · simulation + frame in every cell."""
    values = 100 * torch.arange(simulations)[:, None] + torch.arange(frames)
    return values[:, :, None, None, None].float().expand(-1, -1, 1, 2, 2).contiguous()


def test_a_pair_is_two_frames_that_follow_and_the_change_to_the_one_ahead() -> None:
    found = data.pairs(numbered(2, 5).square(), 2)  # squares: no two changes are the same
    assert found.past.shape == (4, 2, 2, 2)
    assert found.past[:, :, 0, 0].sqrt().tolist() == [[0, 1], [1, 2], [100, 101], [101, 102]]
    assert found.change[:, 0, 1, 1].tolist() == [3**2 - 1, 4**2 - 2**2, 103**2 - 101**2, 104**2 - 102**2]
    with pytest.raises(StudyError, match="3 frames a simulation are too few for a forecast of 2"):
        data.pairs(numbered(1, 3), 2)


def test_the_error_of_persistence_is_that_of_a_ramp() -> None:
    assert data.pairs(numbered(3, 9), 4).persistence == pytest.approx(4)


def test_whole_simulations_train_choose_and_test() -> None:
    density = numbered(6, 5)
    found = data.tasks(density, QUICK)  # two for A, one for B, one to choose by

    def simulations(pairs: data.Pairs, task: data.Task) -> set[int]:
        raw = pairs.past * task.deviation + task.mean
        return {round(v) // 100 for v in raw.flatten().tolist()}

    assert [simulations(p, found["A"]) for p in (found["A"].train, found["A"].validation, found["A"].test)] == [
        {0, 1},
        {3},
        {4, 5},
    ]
    assert [simulations(p, found["B"]) for p in (found["B"].train, found["B"].validation, found["B"].test)] == [
        {2},
        {3},
        {4, 5},
    ]
    assert (found["A"].unit, found["B"].unit) == pytest.approx((1, 2))  # leads 1 and 2
    assert found["A"].mean == found["B"].mean == pytest.approx(float(density[:2].mean()))
    with pytest.raises(StudyError, match="4 simulations: more than 4 are needed"):
        data.tasks(density[:4], QUICK)


def test_an_epoch_shows_every_pair_once_at_most() -> None:
    drawn = list(itertools.islice(data.batches(10, 4, 3), 4))
    assert [len(rows) for rows in drawn] == [4] * 4
    first, second = torch.cat(drawn[:2]), torch.cat(drawn[2:])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 8
    assert first.tolist() != second.tolist()
