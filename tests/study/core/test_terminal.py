"""How many processes train, and with how many threads each."""

import os

import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.core.terminal import worker_count


@pytest.mark.parametrize(
    ("workers", "before", "after"),
    [(1, 64, 8), (2, 64, 4), (3, 64, 2), (20, 64, 1), (1, 1, 1), (2, 3, 3), (4, 3, 2)],
)
def test_workers_divide_the_cores_and_take_no_more_threads_than_there_were(monkeypatch, workers, before, after) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    torch.set_num_threads(before)
    assert worker_count(workers) == workers
    assert torch.get_num_threads() == after


def test_fewer_than_one_is_refused() -> None:
    with pytest.raises(StudyError, match="--workers must be at least 1, not 0"):
        worker_count(0)
