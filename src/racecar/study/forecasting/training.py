"""One network from start to finish: A by a method, then B three ways, and the errors of its forecasts."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.study.classification.balancing import BATCHES
from racecar.study.core import greedy
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.errors import DivergedError, Stopped
from racecar.study.core.methods import Strength
from racecar.study.core.methods.base import Regulariser
from racecar.study.core.randomness import seed_device
from racecar.study.core.variants import Variant
from racecar.study.forecasting.config import Config
from racecar.study.forecasting.data import Pairs, Task, batches
from racecar.study.forecasting.network import DEPTH, START, Forecaster

SHARE = 20  # an epoch of Pre's is one of so many parts of A's steps, for every layer
_L2 = 1e-6  # of the probe, times the mean square of its inputs: for channels that are dead

Step = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # past → (output, penalty)


@dataclass(frozen=True)
class Job:
    """One network.

    Attributes:
        variant: how A is trained; None: B from scratch.
        value: of tuning; 0 where there is none. Of B from scratch: 0 for as many steps as fine-tuning takes, 1 for
            those of A as well.
        seed: of weights and order.
        tuning: whether it is one of those that values are chosen by: half the steps, measured on validation.
    """

    variant: Variant | None
    value: float
    seed: int
    tuning: bool = False

    @property
    def name(self) -> str:
        """Of its file."""
        kind = "B" if self.variant is None else self.variant.name
        return f"{'tuning-' * self.tuning}{kind}-{self.value:g}-seed-{self.seed}"

    def steps(self, config: Config) -> tuple[int, int]:
        """On A and on B."""
        a, b = (math.ceil(s / (1 + self.tuning)) for s in (config.steps_a, config.steps_b))
        if self.variant is None:
            return 0, b + round(a * self.value)
        return round(a * self.variant.method.length(config.compute_match)), b

    def work(self, config: Config) -> int:
        """In steps, those of Pre's layers among them."""
        a, b = self.steps(config)
        epochs = 0 if self.variant is None else self.variant.method.pretraining(self.value)
        return DEPTH * _steps_a_layer(epochs, a) + a + b


def train(
    job: Job, tasks: Mapping[str, Task], config: Config, callbacks: Callbacks = QUIET
) -> tuple[dict[str, float], Forecaster]:
    """Train one network and measure it.

    Args:
        job: which.
        tasks: A and B.
        config: its size.
        callbacks: ``advance`` is told of steps, ``stop`` is asked after each.

    Returns:
        RMSE in units of density, by outcome: ``A``; ``AB``, fine-tuned on B; ``probe``, B with a new last layer on a
        frozen body. Of B from scratch: ``B``. And ``weight``, λ of the compared layers, where a method has one. Beside
        it the network as B has left it.

    Raises:
        DivergedError, NonFiniteError: a loss or a penalty is not finite.
        Stopped: it was to stop.
    """
    a, b = job.steps(config)
    model = Forecaster(config.width, job.seed)
    found: dict[str, float] = {}
    if job.variant is not None:
        found |= pretrained(model, job.variant, job.value, tasks["A"], config, job.seed, a, callbacks)
        found["A"] = error(model, tasks["A"], _measured(job, tasks["A"]))
        found["probe"] = error(probed(model, tasks["B"]), tasks["B"], _measured(job, tasks["B"]))
    fit(model, partial(_plain, model), list(model.parameters()), tasks["B"], config, 1000 + job.seed, b, callbacks)
    found["B" if job.variant is None else "AB"] = error(model, tasks["B"], _measured(job, tasks["B"]))
    return found, model


def _steps_a_layer(epochs: int, steps: int) -> int:
    return math.ceil(epochs * steps / SHARE)


def _measured(job: Job, task: Task) -> Pairs:
    return task.validation if job.tuning else task.test


def pretrained(
    model: Forecaster,
    variant: Variant,
    value: float,
    task: Task,
    config: Config,
    seed: int,
    steps: int,
    callbacks: Callbacks = QUIET,
) -> dict[str, float]:
    """Train on A as a method does.

    Args:
        model: its weights change.
        variant, value: the method and its tuning value.
        task: A.
        config, seed, steps: of the training.
        callbacks: as :func:`train`'s.

    Returns:
        λ, where the method has one.
    """
    method = variant.method
    example = task.train.past[: config.batch]
    if epochs := method.pretraining(value):
        each = _steps_a_layer(epochs, steps)

        def seen() -> itertools.islice[Tensor]:
            chosen = batches(len(task.train.past), config.batch, 2000 + seed)
            return itertools.islice((task.train.past[rows] for rows in chosen), each)

        if not greedy.pretrain(model, example, seen, depth=DEPTH, start=START, rate=1e-3, callbacks=callbacks):
            raise Stopped
    if not method.arguments:
        step = partial(_plain, model, regulariser=method.regulariser(model, Strength(value)))
        fit(model, step, list(model.parameters()), task, config, seed, steps, callbacks)
        return {}
    decoder = Forecaster(config.width, 10_000 + seed) if method.untied else None
    rr = racecar.Racecar(model, example, start=START, decoder=decoder, **method.arguments)
    chosen = batches(len(task.train.past), config.batch, seed)
    for number, rows in enumerate(itertools.islice(chosen, BATCHES)):
        output, penalty = rr(task.train.past[rows])
        loss = F.mse_loss(output, task.train.change[rows] / task.unit)
        racecar.balance(rr, loss, penalty, ratio=value, smoothing=number / (number + 1))
    fit(rr, rr, list(rr.parameters()), task, config, seed, steps, callbacks)
    return {"weight": float(rr.lambdas[0])}


def _plain(model: nn.Module, past: Tensor, regulariser: Regulariser | None = None) -> tuple[Tensor, Tensor | None]:
    return model(past), None if regulariser is None else regulariser(model)


def fit(
    module: nn.Module,
    step: Step,
    parameters: list[nn.Parameter],
    task: Task,
    config: Config,
    seed: int,
    steps: int,
    callbacks: Callbacks = QUIET,
) -> None:
    """Adam on the mean squared error, in the task's unit, and a penalty; the rate falls along a cosine.

    Raises:
        DivergedError: the loss is not finite.
        Stopped: it was to stop.
    """
    module.train()
    optimiser = torch.optim.Adam(parameters, config.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    seed_device(task.train.past.device, seed)  # SRIP's power iteration begins with random vectors
    for rows in itertools.islice(batches(len(task.train.past), config.batch, seed), steps):
        output, penalty = step(task.train.past[rows])
        loss = F.mse_loss(output, task.train.change[rows] / task.unit)
        if penalty is not None:
            loss = loss + penalty
        if not math.isfinite(loss.detach()):
            raise DivergedError(f"the loss is {float(loss.detach())}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        callbacks.advance(1)
        if callbacks.stop():
            raise Stopped


@torch.no_grad()
def probed(model: Forecaster, task: Task) -> Forecaster:
    """The same body with the last layer that is best for a task's training pairs, by least squares.

    Args:
        model: is left as it is.
        task: whose training pairs are fitted.
    """
    new = copy.deepcopy(model)
    size = new.head.weight[0].numel() + 1
    squares, products = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for past, change in zip(task.train.past.split(32), task.train.change.split(32), strict=True):
        columns = F.unfold(new.body(past), 3, padding=1).transpose(1, 2).flatten(0, 1).double()
        columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1)
        squares += columns.mT @ columns
        products += columns.mT @ (change.flatten().double() / task.unit)
    held = _L2 * squares.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    held[-1, -1] = 0
    solution = torch.linalg.solve(squares + held, products).float()
    new.head.weight.copy_(solution[:-1].view_as(new.head.weight))
    assert new.head.bias is not None
    new.head.bias.copy_(solution[-1:])
    return new


@torch.no_grad()
def forecast(model: Forecaster, task: Task, past: Tensor) -> Tensor:
    """Density forecast from a standardised past: [n, 2, h, w] → [n, 1, h, w]."""
    model.eval()
    change = torch.cat([model(part) for part in past.split(64)]) * task.unit
    return past[:, 1:] * task.deviation + task.mean + change


def error(model: Forecaster, task: Task, of: Pairs) -> float:
    """RMSE of the forecasts of some pairs, in units of density.

    Raises:
        DivergedError: it is not finite.
    """
    now = of.past[:, 1:] * task.deviation + task.mean
    found = float((forecast(model, task, of.past) - now - of.change).double().square().mean().sqrt())
    if not math.isfinite(found):
        raise DivergedError(f"the error of the forecasts is {found}")
    return found
