"""The solver's physics on small grids: divergence, mass, rising smoke; seeds."""

import numpy as np
import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.smoke import simulation
from racecar.study.smoke.simulation import Plume, Settings, simulate

SETTINGS = Settings(frames=40, size=16, warm_up=2)


@pytest.fixture(scope="module")
def simulated() -> simulation.Simulated:
    return simulate(SETTINGS, 3)


def test_frames_are_pictures_of_smoke_between_0_and_1(simulated) -> None:
    assert simulated.density.shape == (40, 1, 16, 16)
    assert simulated.density.dtype == torch.float32
    assert simulated.density.min() >= 0
    assert simulated.density.max() <= 1
    assert (simulated.density.amax((1, 2, 3)) > 0.5).all()  # no frame is empty


def test_smoke_begins_at_the_bottom_and_rises(simulated) -> None:
    rows = torch.arange(16.0).view(1, 1, 16, 1)
    height = 15 - (simulated.density * rows).sum((1, 2, 3)) / simulated.mass
    assert height[0] < 6
    assert height[-1] > height[0] + 1


def test_the_velocity_is_free_of_divergence_and_advection_makes_no_smoke(simulated) -> None:
    assert simulated.divergence.max() < 0.001
    assert simulated.gain.max() < 0.05
    assert torch.allclose(simulated.mass, simulated.density.sum((1, 2, 3)), rtol=1e-5)
    assert simulated.mass[-1] > simulated.mass[0]  # what flows in


def test_a_seed_gives_the_same_frames_whatever_was_simulated_before(simulated) -> None:
    told = []
    other = simulate(Settings(frames=2, size=16, warm_up=0), 4)
    again = simulate(SETTINGS, 3, told.append)
    assert torch.allclose(again.density, simulated.density, atol=1e-5)
    assert not torch.allclose(other.density, again.density[:2], atol=0.1)
    assert sum(told) == 42


def test_a_process_compiles_its_solver_once(simulated, monkeypatch) -> None:
    traced = []
    monkeypatch.setattr(torch.jit, "trace", lambda *args, **options: traced.append(args))
    assert len(simulate(Settings(frames=2, size=16, warm_up=0), 5).density) == 2
    assert not traced


def test_plumes_are_drawn_from_the_documented_ranges() -> None:
    plumes = [Plume.of(seed) for seed in range(200)]
    assert len(set(plumes)) == 200
    for name, low, high in (("x", 0.25, 0.75), ("radius", 0.05, 0.13), ("buoyancy", 0.05, 0.15)):
        values = np.array([getattr(p, name) for p in plumes])
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    speeds = [np.hypot(*plumes[0].velocity(step)) for step in range(50)]
    assert np.allclose(speeds, plumes[0].speed)


@pytest.mark.parametrize(
    ("limit", "said"),
    [("DIVERGENCE", "the velocity's divergence is .* above -1"), ("GAIN", "advection made .* more smoke, above -1")],
)
def test_a_simulation_that_fails_a_check_says_which_seed_and_when(monkeypatch, limit, said) -> None:
    monkeypatch.setattr(simulation, limit, -1.0)
    with pytest.raises(StudyError, match=f"simulation with seed 7, time step [01]: {said}"):
        simulate(Settings(frames=2, size=16, warm_up=0), 7)


@pytest.mark.parametrize("wrong", [{"size": 18}, {"size": 8}, {"frames": 0}, {"warm_up": -1}])
def test_settings_that_cannot_be_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must be"):
        Settings(**wrong)
