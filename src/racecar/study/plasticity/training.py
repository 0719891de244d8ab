"""One network on task after task: resumable at every step to the same result.

Images, labels, order and all random numbers are functions of (seed, task, epoch), so a saved state is weights, moments,
λ and a step number.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.analysis.features import dead_units, effective_rank
from racecar.study.core.callbacks import QUIET, Callbacks, Timer
from racecar.study.core.checkpoints import Progress, pack, unpack
from racecar.study.core.errors import DivergedError
from racecar.study.core.methods import Strength
from racecar.study.core.randomness import seed_device
from racecar.study.core.variants import Run
from racecar.study.plasticity.config import FIRST, PlasticityConfig
from racecar.study.plasticity.network import FEATURES, HEAD, features
from racecar.study.plasticity.sequences import Sequence, Task, drawn, seed_of

FIRST_SHARE = 0.1  # of the tasks, in which the penalty of the way "first" acts


class Training:
    """A network in training on a chain of tasks.

    Args:
        run: its method, the method's value and the seed.
        config: of the study.
        sequence: of the tasks.
        device: where it is trained.

    Attributes:
        history: what was measured at the end of every task.
    """

    def __init__(self, run: Run, config: PlasticityConfig, sequence: Sequence, device: torch.device) -> None:
        self.which, self.config, self.sequence, self.device = run, config, sequence, device
        self.method, self.strength = run.variant.method, config.value(run) or 0.0
        self.steps_per_epoch = config.train_images // config.batch_size
        self.steps_per_task = self.steps_per_epoch * config.epochs_of(run.variant)
        self.total = self.steps_per_task * config.tasks
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums = torch.zeros(3, dtype=torch.float64)  # over a task's last epoch: right, cross entropy, images
        self._known: tuple[int, Task] | None = None  # the last task made, by its number
        self._order: tuple[tuple[int, int], Tensor] | None = None  # of its images in an epoch
        self.model = self._drawn("weights")
        self.rr: racecar.Racecar | None = None
        self.regulariser = None
        modules: list[nn.Module] = [self.model]
        if self.method.arguments:
            decoder = self._drawn("decoder") if self.method.untied else None
            modules += [decoder] if decoder is not None else []
            example, _ = self._batch(0)
            self.rr = racecar.Racecar(
                self.model, example, start=FEATURES, decoder=decoder, weight=1.0, **self.method.arguments
            )
            self._balance()
        else:
            # Made once: what it remembers of the weights is how the first task begins.
            self.regulariser = self.method.regulariser(self.model, Strength(self.strength))
        self.modules = modules
        parameters = [p for m in modules for p in m.parameters()]
        self.optimiser = torch.optim.Adam(parameters, config.learning_rate, fused=True)

    def _drawn(self, *what: object) -> nn.Sequential:
        """The network with weights of its seed, and of what they are for."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(*what, self.which.seed))
            return self.sequence.network().to(self.device)

    def _task(self, number: int) -> Task:
        if self._known is None or self._known[0] != number:
            task = self.sequence.task(self.which.seed, number)
            parts = [None if t is None else t.to(self.device) for t in vars(task).values()]
            self._known = number, Task(*parts)  # type: ignore[arg-type]
        return self._known[1]

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The images and labels of a step."""
        number, within = divmod(step, self.steps_per_task)
        epoch, batch = divmod(within, self.steps_per_epoch)
        task, size = self._task(number), self.config.batch_size
        if self._order is None or self._order[0] != (number, epoch):
            generator = drawn("order", self.which.seed, number, epoch)
            self._order = (number, epoch), torch.randperm(len(task.labels), generator=generator).to(self.device)
        chosen = self._order[1][batch * size : (batch + 1) * size]
        return task.inputs[chosen], task.labels[chosen]

    def _balance(self) -> None:
        """λ by the norms of both gradients, each a mean over the batches of the first epoch."""
        assert self.rr is not None
        task = pull = 0.0
        for step in range(self.steps_per_epoch):
            inputs, labels = self._batch(step)
            output, penalty = self.rr(inputs)
            found = racecar.balance(self.rr, F.cross_entropy(output, labels), penalty, smoothing=1.0)  # only measures
            task, pull = task + found.loss, pull + found.penalty
        self.rr.lambdas = self.rr.lambdas * (self.strength * task / pull)

    @property
    def _penalised(self) -> bool:
        """Whether the penalty acts in this step's task."""
        tasks = self.config.tasks
        until = math.ceil(FIRST_SHARE * tasks) if self.which.way.endswith(FIRST) else tasks
        return self.step // self.steps_per_task < until

    # --- training -----------------------------------------------------------------------------------------------------

    def run(self, callbacks: Callbacks = QUIET) -> bool:
        """Train on all tasks.

        Args:
            callbacks: ``advance`` is told of steps; ``note`` of what was measured after every task.

        Returns:
            Whether the training is finished.

        Raises:
            DivergedError: a loss or a weight is infinite or NaN.
        """
        timer = Timer(callbacks.save_every)
        while self.step < self.total:
            began = time.perf_counter()
            self._train_step()
            self.step += 1
            if self.step % self.steps_per_task == 0:
                self._end_task()
                callbacks.note(self.history[-1])
            self.seconds += time.perf_counter() - began
            callbacks.advance(1)
            stopped = callbacks.stop()
            if stopped or timer.due:
                timer.restart()
                callbacks.save(self.state())
                if stopped and self.step < self.total:
                    return False
        return True

    def _train_step(self) -> None:
        inputs, labels = self._batch(self.step)
        if self.rr is not None and self._penalised:
            output, penalty = self.rr(inputs)
            loss = F.cross_entropy(output, labels)
            whole = loss + penalty
        elif self.regulariser is not None:
            seed_device(self.device, seed_of("step", self.which.seed, self.step))  # SRIP starts at random vectors
            output = self.model(inputs)
            loss = F.cross_entropy(output, labels)
            whole = loss + self.regulariser(self.model)
        else:
            output = self.model(inputs)
            whole = loss = F.cross_entropy(output, labels)
        self.optimiser.zero_grad()
        whole.backward()
        self.optimiser.step()
        if self.step % self.steps_per_task >= self.steps_per_task - self.steps_per_epoch:
            self.sums += self._sums(output.detach(), labels, loss.detach())

    @staticmethod
    def _sums(output: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        right = (output.argmax(1) == labels).sum()
        return torch.stack([right, loss * len(labels), right.new_tensor(len(labels))]).double().cpu()

    # --- between tasks ------------------------------------------------------------------------------------------------

    def _end_task(self) -> None:
        """Measure, and make the weights those that the next task begins with."""
        number = self.step // self.steps_per_task
        self.history.append({"task": number, **self.measure()})
        self.sums.zero_()
        if number < self.config.tasks:
            self._between(number)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """How well the task was learnt, and what the network is like, by name.

        Raises:
            DivergedError: the weights or the cross entropy are infinite or NaN.
        """
        task = self._task((self.step - 1) // self.steps_per_task)
        norm = float(torch.stack([p.square().sum() for p in self.model.parameters()]).sum().sqrt())
        inputs, sums = task.inputs, self.sums
        if task.test_inputs is not None and task.test_labels is not None:
            inputs, output = task.test_inputs, self.model(task.test_inputs)
            sums = self._sums(output, task.test_labels, F.cross_entropy(output, task.test_labels))
        right, entropy, images = sums.tolist()
        if not math.isfinite(norm + entropy):
            raise DivergedError(f"loss or weights are not finite in step {self.step}: lower the learning rate")
        hidden = features(self.model, inputs)
        values = {
            "accuracy": right / images,
            "cross_entropy": entropy / images,
            "effective_rank": effective_rank(hidden),
            "dead_units": dead_units(hidden),
            "weight_norm": norm,
        }
        return {name: float(f"{value:.6g}") for name, value in values.items()}

    @torch.no_grad()
    def _between(self, number: int) -> None:
        """What the method, and the sequence's new heads, make of the weights; weights drawn anew have no moments."""
        fresh = self._drawn("fresh", number).state_dict()
        weights = self.method.between(dict(self.model.state_dict()), fresh, HEAD, self.strength)
        if self.sequence.new_head:
            weights = {n: fresh[n] if n.startswith(HEAD) else w for n, w in weights.items()}
        for name, parameter in self.model.named_parameters():
            if torch.equal(weights[name], fresh[name]):
                for moment in self.optimiser.state[parameter].values():
                    moment.zero_()
            parameter.copy_(weights[name])

    # --- saved states -------------------------------------------------------------------------------------------------

    @property
    def lambdas(self) -> list[float]:
        """λ_1 to λ_s; none without a reverse pass."""
        return [] if self.rr is None else self.rr.lambdas.tolist()

    def state(self) -> Progress:
        """Everything needed to go on from here."""
        tensors = pack(self.modules, [self.optimiser]) | {"sums": self.sums.clone()}
        if self.rr is not None:
            tensors["lambdas"] = self.rr.lambdas.clone()
        metadata: dict[str, Any] = {
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
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
            if ("lambdas" in state.tensors) != (self.rr is not None):
                raise ValueError("it has λ, or lacks them")
            unpack(state.tensors, self.modules, [self.optimiser])
            if self.rr is not None:
                self.rr.lambdas = state.tensors["lambdas"].to(self.device)
            self.sums = state.tensors["sums"].clone()
            self.step, self.seconds = int(state.metadata["step"]), float(state.metadata["seconds"])
            self.history = list(state.metadata["history"])
