import math

import numpy as np
import pytest
import torch
from torch import nn

from racecar.analysis import dead_units, effective_rank, weight_spectrum


def rank_by_svd(features: torch.Tensor) -> float:
    x = features.double().numpy()
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (2, 3), (20, 1)])
def test_effective_rank_is_the_entropy_of_singular_values(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 7
    assert effective_rank(features) == pytest.approx(rank_by_svd(features), rel=1e-5)


@pytest.mark.parametrize(("strengths", "expected"), [([1, 1, 1], 3.0), ([4, 0, 0], 1.0), ([0, 0, 0], 0.0)])
def test_effective_rank_of_orthogonal_directions(strengths: list[int], expected: float) -> None:
    contrasts = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # orthogonal, of mean 0
    assert effective_rank(contrasts * torch.tensor(strengths) + 0.1) == pytest.approx(expected, abs=1e-6)


def test_what_rounding_leaves_of_constants_has_no_rank() -> None:
    assert effective_rank(torch.full((7, 3), 0.1, dtype=torch.float64)) == 0


def test_effective_rank_takes_singular_values_not_variances() -> None:
    contrasts = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    shares = torch.tensor([0.75, 0.25])
    expected = math.exp(-float((shares * shares.log()).sum()))
    assert effective_rank(contrasts * torch.tensor([3.0, 1.0])) == pytest.approx(expected, rel=1e-6)


def test_dead_units_are_constant() -> None:
    features = torch.tensor([[0.0, 1.0, 5.0, 1.0], [0.0, 2.0, 5.0, 1.1]])
    assert dead_units(features) == 0.5
    assert dead_units(features, tolerance=0.2) == 0.75


def test_weight_spectrum_is_of_flattened_kernels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
    model.register_parameter("position", nn.Parameter(torch.randn(1, 4, 2)))
    found = weight_spectrum(model)
    assert list(found) == ["0.weight", "4.weight"]
    for name, values in found.items():
        flat = model.get_parameter(name).detach().double().numpy().reshape(model.get_parameter(name).shape[0], -1)
        assert values.numpy() == pytest.approx(np.linalg.svd(flat, compute_uv=False), rel=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_spectrum_of_a_transposed_convolution_has_rows_by_output(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(4, 6, 3, groups=groups)
    rows = []
    for out in range(6):  # the weights that lead to an output: those of its group's inputs
        group, within = divmod(out, 6 // groups)
        rows.append(layer.weight.detach()[group * (4 // groups) : (group + 1) * (4 // groups), within].flatten())
    expected = np.linalg.svd(torch.stack(rows).double().numpy(), compute_uv=False)
    assert weight_spectrum(layer)["weight"].numpy() == pytest.approx(expected, rel=1e-6)


def test_weight_spectrum_reads_what_is_computed_with_and_a_shared_weight_once() -> None:
    torch.manual_seed(0)
    whitened = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    tied = nn.Linear(4, 4)
    model = nn.ModuleList([whitened, tied, nn.Linear(4, 4)])
    model[2].weight = tied.weight
    found = weight_spectrum(model)
    assert list(found) == ["0.weight", "1.weight"]
    assert found["0.weight"].tolist() == pytest.approx([1.0] * 4, abs=1e-5)


@pytest.mark.parametrize(
    "features",
    [torch.ones(3, 2, dtype=torch.int64), torch.ones(3), torch.ones(1, 2), torch.tensor([[1.0], [math.nan]])],
)
def test_what_are_no_features_is_refused(features: torch.Tensor) -> None:
    for measure in (effective_rank, dead_units):
        with pytest.raises(ValueError, match=r"features (have|hold)"):
            measure(features)
