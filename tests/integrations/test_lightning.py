"""The mixin's own checks; what it computes is in test_loops.py and test_examples.py."""

from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import nn

import racecar
from racecar.integrations.lightning import RacecarMixin


class Lit(RacecarMixin, lightning.LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        self.add_racecar(self.model, **options)


def fit(lit: Lit, processes: int = 1, steps: int = 1) -> Lit:
    lit.trainer = SimpleNamespace(world_size=processes, accumulate_grad_batches=steps)
    return lit


def test_no_malicious_release() -> None:
    assert lightning.__version__ not in ("2.6.2", "2.6.3")


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 6), ("mean", 1)])
def test_a_sum_counts_for_all_processes_and_steps(reduction, factor) -> None:
    x = torch.rand(5, 4)
    lit = fit(Lit(weight=0.1, reduction=reduction), processes=3, steps=2)
    output, penalty = lit.racecar(x)
    expected_output, expected = racecar.Racecar(lit.model, x, weight=0.1, reduction=reduction)(x)
    assert torch.equal(output, expected_output)
    torch.testing.assert_close(penalty, factor * expected)


def test_checkpoints_hold_the_plain_model() -> None:
    lit = fit(Lit())
    lit.racecar(torch.rand(5, 4))
    assert set(lit.state_dict()) == {f"model.{name}" for name in lit.model.state_dict()}
    assert not [m for m in lit.modules() if isinstance(m, racecar.Racecar)]


@pytest.mark.parametrize("mode", [True, False])
def test_keywords_and_either_mode_give_a_penalty(mode) -> None:
    lit = fit(Lit()).train(mode)
    _, penalty = lit.racecar(input=torch.rand(5, 4))
    assert penalty > 0


def test_errors() -> None:
    class Bare(RacecarMixin, nn.Module):
        pass

    with pytest.raises(racecar.ArgumentError, match="add_racecar"):
        Bare().racecar(torch.rand(2, 2))
    with pytest.raises(racecar.ArgumentError, match=r"torch\.nn\.Module, not str"):
        Bare().add_racecar("model")
    with pytest.raises(racecar.ArgumentError, match="but for example_inputs and decoder"):
        Bare().add_racecar(nn.Linear(2, 2), decoder=nn.Linear(2, 2))


def test_a_penalty_that_is_not_finite_stops_the_training() -> None:
    lit = fit(Lit())
    lit.racecar(torch.rand(2, 4))
    with pytest.raises(racecar.NonFiniteError):
        lit.racecar(torch.full((2, 4), float("inf")))
