"""The whitened racecar loss, beside closed forms."""

import pytest
import torch
from torch import nn

import racecar
from racecar.study.classification.objective import Objective
from racecar.study.classification.whitening import whitened_distance, whitening
from racecar.study.core.variants import Variant


def test_without_a_floor_the_covariance_becomes_the_identity() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)).view(500, 2, 3)
    metric = whitening(inputs, 0.0)
    assert torch.allclose((inputs.flatten(1) @ metric).T.cov(), torch.eye(6, dtype=torch.float64), atol=1e-8)


def test_a_direction_without_variance_is_raised_to_the_floor_alone() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([3.0, 0.0])
    variance = inputs[:, 0].var()
    metric = whitening(inputs, 0.1)
    expected = torch.stack([variance + 0.05 * variance, 0.05 * variance]).rsqrt().diag()
    assert torch.allclose(metric, expected)


def test_the_objective_compares_input_and_regenerated_input_in_the_metric() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x, metric = torch.randn(7, 5), whitening(torch.randn(50, 5) * torch.arange(1.0, 6))
    objective = Objective(model, racecar.Racecar(model, x, layers=1, start="0", weight=0.3), metric=metric)
    output, penalty = objective(x)
    first = model[0]
    regenerated = (model[0](x) - first.bias) @ first.weight
    expected = 0.3 * 0.5 * ((x - regenerated) @ metric).square().mean()
    assert torch.allclose(output, model(x))
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(penalty, first.weight)[0]
    assert torch.allclose(ours, torch.autograd.grad(expected, first.weight)[0], rtol=1e-4, atol=1e-6)
    assert penalty.item() == pytest.approx(0.3 * whitened_distance(x, regenerated, metric).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["RR2-white", "Dec3-white", "RR1-white-every4"])
def test_other_layers_and_cheaper_ways_are_not_whitened(name) -> None:
    with pytest.raises(ValueError, match="the input alone is whitened"):
        Variant.parse(name)


def test_names_of_whitened_variants_are_read_back() -> None:
    for name in ("RR1-white", "Dec1-white"):
        assert Variant.parse(name).name == name
        assert Variant.parse(name).method.whitened
