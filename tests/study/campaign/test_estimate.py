"""What an estimate counts, beside sums done by hand."""

from pathlib import Path

import pytest
from torch import nn

from racecar.study.campaign import estimate
from racecar.study.campaign.estimate import BESIDE, SHARE, Study, Work, step
from racecar.study.campaign.items import Place, make_items
from racecar.study.commands.study import preset
from racecar.study.core.ceilings import Ceilings

SLOW = Ceilings("slow", 1e6, 1e6, 1e9, 0.0)
FAR = Ceilings("far", 1e18, 1e18, 1e9, 1e-3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))


def test_a_step_is_its_products_and_its_operations() -> None:
    flops, operations = step(network, (16, 8))
    # Forward and both gradients; of the input none is needed.
    assert flops == 2 * 16 * (2 * 8 * 4 + 3 * 4 * 2)
    # matmul, relu, matmul, sum; backward: three products, relu's, and the gradient of ones.
    assert 9 <= operations - BESIDE <= 12


def test_seconds_are_bounded_by_arithmetic_or_by_launching() -> None:
    flops, operations = step(network, (16, 8))
    work = Work(network, (16, 8), 10)
    assert work.seconds(SLOW, preset) == pytest.approx(10 * flops / (SHARE * 1e6))
    assert work.seconds(FAR, preset) == pytest.approx(10 * operations * 1e-3)


def test_of_a_study_what_its_folder_holds_is_done(tmp_path: Path) -> None:
    """Twelve tenths of plain epochs a seed: two of A, one of AA, AB and two of B, for Std."""
    options = ("--preset", "quick", "--variants", "Std", "--seeds", "2")
    study = Study("digits", options, tmp_path / "none")
    assert study.units(preset) == 2 * 10 * (2 + 1 + 1 + 2)
    assert estimate.Work(network, (16, 8), 3, study).seconds(FAR, preset) == pytest.approx(
        120 * 3 * step(network, (16, 8))[1] * 1e-3
    )


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_item_of_the_list_has_commands_that_are_there(size, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    items = make_items(size, Place(tmp_path, tmp_path / "results", "hub", None, "card"))
    assert [i.name for i in items[:3]] == ["cost", "one-card", "cifar-strong"]
    assert len({i.name for i in items}) == len({i.table for i in items}) == 8
    for item in items:
        assert item.seconds(FAR, preset) > 0
        for command in item.commands:
            if command[0] == "python":
                assert (root / command[1]).exists()
            elif command[1] == "study":
                inputs = {"--tuned-on", "--data", "--simulations", "--captures", "--vgg", "--pictures", "--out"}
                plain = [w for i, w in enumerate(command) if w not in inputs and command[i - 1] not in inputs]
                preset(*plain[2:])  # else it raises
            else:
                assert command[1] in ("report", "data")
