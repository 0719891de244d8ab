"""One simulation of rising smoke with PhiFlow (A.4): MacCormack advection, pressure by CG, random inflow and buoyancy.

PhiFlow is by the group that wrote mantaflow, which the paper used. The box is closed at the sides and at the bottom and
open at the top: with a closed top PhiFlow 3.4's plain CG diverges on the torch backend.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from racecar.study.core.errors import StudyError

DIVERGENCE = 0.01  # largest |div v| allowed, per time step: CG's tolerance is a hundredth of it
GAIN = 0.05  # largest gain of mass by advection in a frame, as a share; it is not exactly conservative


@dataclass(frozen=True)
class Settings:
    """What all simulations of a set have in common.

    Attributes:
        frames: kept, one per time step.
        size: cells along a side.
        warm_up: time steps before the first frame, so that no frame is empty.
    """

    frames: int = 120
    size: int = 64
    warm_up: int = 30

    def __post_init__(self) -> None:
        if self.frames < 1 or self.warm_up < 0:
            raise ValueError(f"frames must be at least 1 and warm_up 0, not {self.frames} and {self.warm_up}")
        if self.size < 16 or self.size % 4:
            raise ValueError(f"size must be a multiple of 4 and at least 16, not {self.size}")


@dataclass(frozen=True)
class Plume:
    """The random part, drawn from the seed; lengths in shares of the box, speeds in 64ths of it per time step.

    Attributes:
        x, y: the inflow's centre from the left and from the bottom.
        radius: of the inflow.
        speed: of the inflow, upwards.
        sway, period, phase: the inflow's direction swings by ``sway`` radians, once in ``period`` time steps.
        buoyancy: upward acceleration at density 1.
        wind: sideways acceleration at density 1.
    """

    x: float
    y: float
    radius: float
    speed: float
    sway: float
    period: float
    phase: float
    buoyancy: float
    wind: float

    @classmethod
    def of(cls, seed: int) -> Plume:
        """The plume of a seed."""
        draw = np.random.default_rng(seed).uniform
        return cls(
            x=draw(0.25, 0.75),
            y=draw(0.06, 0.14),
            radius=draw(0.05, 0.13),
            speed=draw(0.4, 1.2),
            sway=draw(0.2, 1.2),
            period=draw(15, 60),
            phase=draw(0, 2 * math.pi),
            buoyancy=draw(0.05, 0.15),
            wind=draw(-0.015, 0.015),
        )

    def velocity(self, step: int) -> tuple[float, float]:
        """Of the inflow in a time step: sideways, upwards."""
        angle = self.sway * math.sin(self.phase + 2 * math.pi * step / self.period)
        return self.speed * math.sin(angle), self.speed * math.cos(angle)


@dataclass(frozen=True)
class Simulated:
    """One simulation.

    Attributes:
        density: [frames, 1, size, size], float32, 0 to 1; row 0 is the top.
        divergence: [frames], the largest |div v| after projection, per time step.
        mass: [frames], the sum of the density.
        gain: [frames], mass after advection over mass before, minus 1: below 0 where smoke leaves at the top.
    """

    density: Tensor
    divergence: Tensor
    mass: Tensor
    gain: Tensor


def simulate(settings: Settings, seed: int, advance: Callable[[int], None] = lambda steps: None) -> Simulated:
    """Run a simulation; the same seed gives the same frames, whatever else is simulated.

    Args:
        settings: size and length.
        seed: of :class:`Plume`.
        advance: told of time steps done.

    Raises:
        StudyError: a value is not finite, the velocity is not free of divergence, or advection makes smoke of nothing.
    """
    with warnings.catch_warnings():
        # PhiFlow on parts of itself and of torch that are new, torch on how PhiFlow compiles.
        warnings.filterwarnings("ignore", module="phi")
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        return _simulate(settings, seed, advance)


def _simulate(settings: Settings, seed: int, advance: Callable[[int], None]) -> Simulated:
    plume = Plume.of(seed)
    step, state = _solver(settings, plume)
    density: list[NDArray[np.float32]] = []
    checks: list[tuple[float, float, float]] = []
    mass = 0.0
    for number in range(settings.warm_up + settings.frames):
        state, picture, divergence, advected = step(state, plume.velocity(number))
        gain = advected / mass - 1 if mass > 0 else 0.0
        mass = float(picture.sum())
        where = f"simulation with seed {seed}, time step {number}"
        if not (np.isfinite(picture).all() and math.isfinite(divergence)):
            raise StudyError(f"{where}: density or velocity is not finite")
        if divergence > DIVERGENCE:
            raise StudyError(f"{where}: the velocity's divergence is {divergence:.3g}, above {DIVERGENCE}")
        if gain > GAIN:
            raise StudyError(f"{where}: advection made {gain:.1%} more smoke, above {GAIN:.0%}")
        if number >= settings.warm_up:
            density.append(picture[::-1].copy())
            checks.append((divergence, mass, gain))
        advance(1)
    columns = torch.tensor(checks).T
    return Simulated(torch.from_numpy(np.stack(density)).unsqueeze(1), *columns.unbind())


@functools.cache
def _compiled() -> Callable[..., tuple[Any, Any, Any, Any]]:
    """A time step, compiled once for all simulations of a process that have one size."""
    from phi.torch import flow

    solve = flow.Solve("CG", rel_tol=1e-4, abs_tol=1e-4, max_iterations=2000)

    @flow.jit_compile  # type: ignore[untyped-decorator]
    def advanced(v: Any, s: Any, speed: Any, inflow: Any, force: Any) -> tuple[Any, Any, Any, Any]:
        moved = flow.advect.mac_cormack(s, v, 1.0)
        s = moved.with_values(flow.math.clip(flow.math.maximum(moved.values, inflow.values), 0, 1))
        share = (inflow * flow.math.tensor((1.0, 1.0), flow.channel(vector="x,y"))) @ v
        v = flow.advect.mac_cormack(v, v, 1.0)
        v = v * (1 - share) + share * speed + (s * force) @ v
        v, _ = flow.fluid.make_incompressible(v, (), solve)
        left = flow.math.max(abs(flow.field.divergence(v).values))
        return v, s, left, flow.math.sum(flow.math.clip(moved.values, 0, 1))

    compiled: Callable[..., tuple[Any, Any, Any, Any]] = advanced
    return compiled


_Step = Callable[[Any, tuple[float, float]], tuple[Any, NDArray[np.float32], float, float]]


def _solver(settings: Settings, plume: Plume) -> tuple[_Step, Any]:
    """One time step as a function of (velocity, density) and the inflow's velocity, and the state it begins from."""
    # Imported here: nothing else needs PhiFlow, and it takes seconds.
    from phi.torch import flow

    size = settings.size
    scale = size / 64
    box = flow.Box(x=size, y=size)
    still = {"x": 0, "y-": 0, "y+": flow.extrapolation.ZERO_GRADIENT}
    grid = {"bounds": box, "x": size, "y": size}
    velocity = flow.StaggeredGrid(0, still, **grid)
    density = flow.CenteredGrid(0, flow.extrapolation.ZERO_GRADIENT, **grid)
    source = flow.Sphere(x=size * plume.x, y=size * plume.y, radius=size * plume.radius)
    inflow = flow.CenteredGrid(source, flow.extrapolation.ZERO_GRADIENT, **grid)
    force = flow.math.tensor((plume.wind * scale, plume.buoyancy * scale), flow.channel(vector="x,y"))
    advanced = _compiled()

    def step(state: Any, speed: tuple[float, float]) -> tuple[Any, NDArray[np.float32], float, float]:
        v, s = state
        tensor = flow.math.tensor((speed[0] * scale, speed[1] * scale), flow.channel(vector="x,y"))
        v, s, left, advected = advanced(v, s, tensor, inflow, force)
        return (v, s), s.values.numpy("y,x"), float(left), float(advected)

    return step, (velocity, density)
