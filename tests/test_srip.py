"""Ort: SRIP against the spectral norm of WᵀW − I computed directly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.srip import spectral_distance

LAYERS = {
    "linear, wide": lambda: nn.Linear(9, 4),
    "linear, tall": lambda: nn.Linear(4, 9),
    "linear, square": lambda: nn.Linear(5, 5, bias=False),
    "conv1d": lambda: nn.Conv1d(3, 5, 4),
    "conv2d": lambda: nn.Conv2d(2, 6, 3),
    "conv2d, groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(2, 3, 2),
}


def layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]().double()


def exact(weight: Tensor) -> Tensor:
    """σ(WᵀW − I), W being out × (in·k·k)."""
    matrix = weight.detach().reshape(weight.shape[0], -1)
    return torch.linalg.matrix_norm(matrix.T @ matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype), ord=2)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("name", LAYERS)
def test_many_iterations_reach_the_spectral_norm(name: str, scale: float) -> None:
    module = layer(name)
    with torch.no_grad():
        module.weight.mul_(scale)
    torch.testing.assert_close(
        racecar.srip(module, iterations=3000).detach(), exact(module.weight), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_default_is_a_lower_bound_that_grows(name: str) -> None:
    module = layer(name)
    with torch.no_grad():
        module.weight.mul_(3.0)
    bound = exact(module.weight)
    estimates = [
        racecar.srip(module, iterations=n, generator=torch.Generator().manual_seed(5)).item() for n in range(6)
    ]
    assert estimates == sorted(estimates)
    assert 0 < estimates[0] < estimates[5] <= bound * (1 + 1e-12)
    default = racecar.srip(module, generator=torch.Generator().manual_seed(5))
    assert default.item() == estimates[2]


def test_an_orthogonal_matrix_costs_nothing_and_a_scaled_one_what_it_should() -> None:
    module = nn.Linear(6, 6).double()
    nn.init.orthogonal_(module.weight)
    assert racecar.srip(module) < 1e-12
    with torch.no_grad():
        module.weight.mul_(2.0)
    torch.testing.assert_close(racecar.srip(module).item(), 3.0)
    torch.testing.assert_close(racecar.srip(module, squared=True).item(), 9.0)


def test_squared_sums_squares_over_all_matrices_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 3)).double()
    exacts = torch.stack([exact(model[0].weight), exact(model[4].weight)])
    torch.testing.assert_close(racecar.srip(model, iterations=2000).item(), exacts.sum().item(), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        racecar.srip(model, squared=True, iterations=2000).item(), exacts.square().sum().item(), rtol=1e-5, atol=0
    )


def test_the_generator_makes_it_reproducible() -> None:
    module = layer("conv2d")
    state = torch.get_rng_state()
    first, second, other = (
        racecar.srip(module, generator=torch.Generator().manual_seed(seed)).item() for seed in (1, 1, 2)
    )
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    a = racecar.srip(module).item()
    torch.manual_seed(3)
    assert racecar.srip(module).item() == a
    assert racecar.srip(module).item() != a


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3, 3)])
@pytest.mark.parametrize("iterations", [0, 2])
def test_gradient_against_finite_differences(shape: tuple[int, ...], iterations: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    start = torch.randn(weight[0].numel(), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w: spectral_distance(w.flatten(1), start, iterations=iterations), (weight,), raise_exception=True
    )


def test_gradient_is_that_of_the_spectral_norm() -> None:
    module = layer("linear, square")
    with torch.no_grad():
        module.weight.mul_(4.0)
    racecar.srip(module, iterations=500).backward()
    weight = module.weight.detach().clone().requires_grad_()
    torch.linalg.matrix_norm(weight.T @ weight - torch.eye(5, dtype=torch.float64), ord=2).backward()
    torch.testing.assert_close(module.weight.grad, weight.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("squared", [False, True])
def test_gradient_descent_makes_a_square_matrix_orthogonal(squared: bool) -> None:
    module = layer("linear, square")
    optimiser = torch.optim.SGD(module.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    before = exact(module.weight)
    for step in range(1500):
        if step == 1000:
            optimiser.param_groups[0]["lr"] = 0.001
        optimiser.zero_grad()
        racecar.srip(module, squared=squared, generator=generator).backward()
        optimiser.step()
    assert before > 0.5
    assert exact(module.weight) < 0.02
    torch.testing.assert_close(module.weight @ module.weight.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=0.02)


def test_stacked_and_padded_matrices_are_as_if_alone() -> None:
    torch.manual_seed(0)
    sizes = [(4, 3), (2, 5), (5, 5)]
    matrices = [torch.randn(size, dtype=torch.float64) for size in sizes]
    starts = [torch.randn(size[1], dtype=torch.float64) for size in sizes]
    stacked = torch.stack([nn.functional.pad(m, (0, 5 - m.shape[1], 0, 5 - m.shape[0])) for m in matrices])
    padded = torch.stack([nn.functional.pad(v, (0, 5 - v.shape[0])) for v in starts])
    for n in (0, 2, 7):
        alone = torch.stack([spectral_distance(m, v, iterations=n) for m, v in zip(matrices, starts, strict=True)])
        torch.testing.assert_close(spectral_distance(stacked, padded, iterations=n), alone)


@pytest.mark.parametrize("squared", [False, True])
def test_the_identity_is_a_minimum_without_nan(squared: bool) -> None:
    module = nn.Linear(4, 4, bias=False)
    nn.init.eye_(module.weight)
    penalty = racecar.srip(module, squared=squared)
    penalty.backward()
    assert penalty == 0
    assert not module.weight.grad.any()


def test_dtype_is_the_weights() -> None:
    assert racecar.srip(nn.Linear(4, 3)).dtype == torch.float32
    assert racecar.srip(nn.Linear(4, 3).double()).dtype == torch.float64


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm1d(3), nn.Sequential()], ids=["none", "vectors", "empty"])
def test_a_model_without_matrices_is_an_error(model: nn.Module) -> None:
    with pytest.raises(racecar.ArgumentError, match="srip: the model has no parameter with two or more dimensions"):
        racecar.srip(model)
