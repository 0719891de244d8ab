"""How many processes train, with how many threads each; what a log file says of the work."""

import os

import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.core.terminal import Lines, log_line, progress_bar, worker_count


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


def test_without_a_terminal_a_line_now_and_then(capsys) -> None:
    now = 0.0
    advance = Lines("3 networks", 1000, 100, lambda: now)
    for _ in range(890):  # a second each
        now += 1
        advance(1)
    advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 networks: goes on at 10 %"
    assert lines[1] == "3 networks: 16 %, 0:01:00, left 0:14:00"
    assert len(lines) == 1 + 14 + 1
    assert lines[-1] == "3 networks: 100 %, 0:14:50"


def test_progress_bar_and_lines_go_where_they_can_be_read(capsys, monkeypatch) -> None:
    with progress_bar("work", 2, 0) as advance:
        advance(2)
    log_line("a line")
    assert capsys.readouterr().err.splitlines() == ["work: begins", "work: 100 %, 0:00:00", "a line"]
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with progress_bar("work", 2, 0) as advance:
        log_line("a line")
        advance(2)
    shown = capsys.readouterr().err
    assert "a line" not in shown
    assert "100 %" in shown
