"""The loop that both phases of the smoke study share: resumable at every step to the same result.

Batches and random numbers are functions of (seed, step), so a saved state is weights, moments and a step number.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from racecar.study.core.callbacks import QUIET, Callbacks, Timer
from racecar.study.core.checkpoints import Progress, pack, unpack
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.core.randomness import seed_device
from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames, batch


class Training(ABC):
    """Networks in training; subclasses say what a step and a measurement are.

    Args:
        modules: everything with weights.
        optimisers: as many as there are losses.
        frames: pictures on the device.
        config: hyper-parameters.
        total: steps in all.
        seed: of the run.
    """

    losses: tuple[str, ...]  # names of what a step returns

    def __init__(
        self,
        modules: list[nn.Module],
        optimisers: list[Optimizer],
        frames: Frames,
        config: SmokeConfig,
        total: int,
        seed: int,
    ) -> None:
        self.modules, self.optimisers, self.frames, self.config = modules, optimisers, frames, config
        self.total, self.seed, self.step = total, seed, 0
        self.device = frames.train.device
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.sums = torch.zeros(len(self.losses), dtype=torch.float64)
        self.summed = 0  # steps since the last measurement
        count = min(config.evaluations, total)
        self.measured = {round((i + 1) * total / count) for i in range(count)}

    @abstractmethod
    def train_step(self, pictures: Tensor) -> list[Tensor]:
        """One step of every optimiser; the values of :attr:`losses`."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Quality on the test pictures with the weights of now, by name."""

    def autocast(self) -> torch.autocast:
        """The configuration's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def run(self, callbacks: Callbacks = QUIET) -> bool:
        """Train to the end.

        Args:
            callbacks: ``advance`` is told of steps; ``note`` of every measurement.

        Returns:
            Whether the training is finished.

        Raises:
            DivergedError: a loss is infinite or NaN.
            StudyError: out of memory.
        """
        timer = Timer(callbacks.save_every)
        while self.step < self.total:
            began = time.perf_counter()
            pictures = batch(self.frames.train, self.config.batch_size, self.seed, self.step)
            seed_device(pictures.device, self.seed * 1_000_003 + self.step)
            for module in self.modules:
                module.train()
            try:
                values = self.train_step(pictures.contiguous(memory_format=torch.channels_last))
            except torch.OutOfMemoryError as error:
                raise StudyError(
                    f"out of memory on {self.device} with batches of {self.config.batch_size}: try --batch-size "
                    f"{max(1, self.config.batch_size // 2)} or --width {max(1, self.config.width // 2)}"
                ) from error
            self.sums += torch.stack([v.detach().double() for v in values]).cpu()  # waits for the device
            self.step += 1
            self.summed += 1
            self.seconds += time.perf_counter() - began
            self._check()
            if self.step in self.measured:
                self._note()
                callbacks.note(self.history[-1])
            callbacks.advance(1)
            stopped = callbacks.stop()
            if stopped or timer.due:
                timer.restart()
                callbacks.save(self.state())
                if stopped and self.step < self.total:
                    return False
        return True

    def _check(self) -> None:
        if not math.isfinite(float(self.sums.sum())):
            values = ", ".join(f"{n} {float(v):g}" for n, v in zip(self.losses, self.sums, strict=True))
            raise DivergedError(f"the loss is not finite in step {self.step} ({values}): lower the learning rate")

    def _note(self) -> None:
        for module in self.modules:
            module.eval()
        means = {n: float(f"{v / self.summed:.6g}") for n, v in zip(self.losses, self.sums.tolist(), strict=True)}
        point = {"step": self.step, "seconds": round(self.seconds, 3)}
        with torch.no_grad():
            self.history.append(point | means | self.measure())
        self.sums.zero_()
        self.summed = 0

    # --- saved states -------------------------------------------------------------------------------------------------

    def state(self) -> Progress:
        """Everything needed to go on from here."""
        tensors = pack(self.modules, self.optimisers) | {"sums": self.sums.clone()}
        metadata: dict[str, Any] = {
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "summed": self.summed,
            "history": list(self.history),
        }
        return Progress(tensors, metadata)

    def restore(self, state: Progress) -> None:
        """Go on from a saved state of the same training.

        Raises:
            StudyError: a state of something else.
        """
        with state.restored():
            if state.metadata["total"] != self.total:
                raise ValueError(f"{state.metadata['total']} steps there, {self.total} now")
            if not 0 <= int(state.metadata["step"]) <= self.total:
                raise ValueError(f"step {state.metadata['step']} of {self.total}")
            unpack(state.tensors, self.modules, self.optimisers)
            self.sums = state.tensors["sums"].clone()
            self.step, self.summed = int(state.metadata["step"]), int(state.metadata["summed"])
            self.seconds, self.history = float(state.metadata["seconds"]), list(state.metadata["history"])
