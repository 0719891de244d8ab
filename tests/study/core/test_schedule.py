"""Runs divided among processes; units of work told once each."""

import pytest
import torch

from racecar.study.core.checkpoints import Progress
from racecar.study.core.folder import Study
from racecar.study.core.schedule import Units, chains, work
from racecar.study.core.variants import Variant, plan

RUNS = plan([Variant("Std"), Variant("RR6")], range(3), ["A", "B1", "B2", "AB1", "AB2", "AB1-early"])


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_chains_hold_every_run_once_after_its_source(workers) -> None:
    shares = chains(RUNS, lambda run: 1, workers)
    assert sorted(r for share in shares for r in share) == sorted(RUNS)
    assert len(shares) <= workers
    for share in shares:
        assert all(run.source is None or share.index(run.source) < share.index(run) for run in share)


def test_the_longest_chains_are_divided_first() -> None:
    def cost(run) -> int:
        return 10 if run.variant.name == "RR6" else 1

    loads = [sum(cost(r) for r in share) for share in chains(RUNS, cost, 3)]
    assert max(loads) <= 1.3 * min(loads)


@pytest.mark.parametrize(("cost", "total", "done"), [(7, 100, 0), (100, 7, 0), (10, 10, 4), (3, 50, 49)])
def test_units_add_up_to_what_was_left(cost, total, done) -> None:
    told: list[int] = []
    units = Units(cost, total, done, told.append)
    for _ in range(total - done):
        units(1)
    assert sum(told) == cost - round(cost * done / total)
    units.finish()
    assert sum(told) == cost - round(cost * done / total)


def test_a_run_that_ended_early_counts_as_done() -> None:
    told: list[int] = []
    units = Units(10, 100, 0, told.append)
    units(30)
    units.finish()
    assert sum(told) == 10


@pytest.mark.parametrize(
    "about",
    [{}, {"run": None}, {"run": 7, "step": 1, "total": 2}]
    + [{"run": RUNS[0].key, "step": step, "total": 4} for step in (None, "2", -1, [], 2.5)]
    + [{"run": RUNS[0].key, "step": 2, "total": total} for total in (None, "4", 0, -4)],
)
def test_a_state_that_does_not_say_how_far_it_is_counts_for_nothing(tmp_path, about) -> None:
    study = Study(tmp_path / "s", "x", {})
    study.save_progress("a", Progress({"x": torch.ones(1)}, about))
    assert work(study, RUNS, lambda run: 10) == (10 * len(RUNS), 0)
    study.save_progress("b", Progress({"x": torch.ones(1)}, {"run": RUNS[1].key, "step": 9, "total": 4}))
    assert work(study, RUNS, lambda run: 10) == (10 * len(RUNS), 10)
