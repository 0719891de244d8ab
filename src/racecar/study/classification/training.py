"""One classifier's training on Accelerate: resumable at every step, with the same result as if never interrupted.

The order of images, their augmentation and all random numbers of the model are functions of (seed, step), so a saved
state is weights, the optimiser's moments and a step number.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from racecar.study.classification.averaging import Average
from racecar.study.classification.batches import Data
from racecar.study.classification.evaluation import Point, accuracy, regeneration_error
from racecar.study.classification.extras import PLAIN, Extras
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.core.callbacks import QUIET, Callbacks, Timer
from racecar.study.core.checkpoints import Progress, below, pack, unpack, whole
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.core.randomness import seed_device
from racecar.study.images.decoders import processes_gone


class Trainer:
    """A classifier in training.

    Args:
        objective: the model with its penalty; the model's device is the accelerator's.
        recipe: hyper-parameters.
        data: training and test images.
        seed: of order, augmentation and dropout.
        phase: trainings that follow one another have names of their own. Were the next one to repeat the masks that
            dropout drew in the last one, the network would know them again, and answer by mask.
        accelerator: device, processes, mixed precision.
        order: seed of order and augmentation, if not ``seed``.
        evaluations: how often accuracy on ``test`` is measured in all, the last epoch included.
        eval_modules: modules that stay in evaluation mode while the rest trains (a linear probe's frozen part).
        epochs: how many of the recipe's are trained, its schedule unchanged (early stopping); None: all.
        shard: divide weights, gradients and the optimiser's moments among the processes (FSDP2, at the root).
        extras: what a user adds to the recipe.
        class_weights: [classes], of the cross entropy; None: all 1.
        labelled: whether labels are asked for; if not, racecar's penalty is all that is minimised.

    Raises:
        StudyError: more processes than images, or extras with weights divided among processes.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        data: Data,
        *,
        seed: int,
        accelerator: Accelerator,
        phase: str = "",
        order: int | None = None,
        evaluations: int = 20,
        eval_modules: tuple[nn.Module, ...] = (),
        epochs: int | None = None,
        shard: bool = False,
        extras: Extras = PLAIN,
        class_weights: Sequence[float] | None = None,
        labelled: bool = True,
    ) -> None:
        self.objective, self.recipe, self.data, self.extras = objective, recipe, data, extras
        self.accelerator, self.seed, self.eval_modules = accelerator, seed, eval_modules
        self.salt = zlib.crc32(phase.encode())
        rank, world = accelerator.process_index, accelerator.num_processes
        self.order = seed if order is None else order
        self.batches = data.batches(recipe.batch_size, self.order, recipe.augmentation, rank, world)
        if recipe.batch_size < world:
            raise StudyError(f"batches of {recipe.batch_size} images cannot be shared by {world} processes")
        if objective.rr is not None and world > 1:
            # All processes find it in the sums of the epoch, without a question at every step.
            objective.rr.check_finite = False
        if not len(self.batches):
            raise StudyError(f"{data.train_count} images cannot be shared by {world} processes")
        self.modules = [objective.model, *([objective.rr.decoder] if objective.rr and objective.rr.decoder else [])]
        if shard and world > 1 and extras != PLAIN:
            raise StudyError("weights that are divided among processes are trained by the recipe alone")
        if shard and world > 1:  # before the optimiser, which keeps the moments of what it is given
            objective.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 takes no other
            fully_shard(objective, mesh=init_device_mesh(accelerator.device.type, (world,)))
        self.optimiser = recipe.make_optimiser(self.modules, extras.scales(objective.model))
        wrapped: nn.Module = torch.compile(objective) if recipe.compile else objective  # type: ignore[assignment]
        # Accelerate looks for optional packages at every step, which costs a small network more than its arithmetic.
        self.alone = accelerator.num_processes == 1 and accelerator.scaler is None
        if isinstance(objective, FSDPModule) or self.alone:
            self.wrapped, self.prepared = wrapped, self.optimiser
        else:
            self.wrapped, self.prepared = accelerator.prepare(wrapped, self.optimiser)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
        self.precision = recipe.half or half
        self.step = 0
        self.history: list[Point] = []
        self.sums = torch.zeros(4, dtype=torch.float64)  # of this epoch: cross entropy, penalty, right, images
        self.seconds = 0.0
        self.epochs = recipe.epochs if epochs is None else max(1, min(epochs, recipe.epochs))
        every = max(1, round(self.epochs / evaluations))
        self.evaluated = {e for e in range(1, self.epochs + 1) if e % every == 0} | {self.epochs}
        self.average = Average(objective.model, extras.ema) if extras.ema else None
        self.best: dict[str, Tensor] = {}  # weights of the best epoch so far
        self.labelled, self.class_weights = labelled, None
        if class_weights is not None:
            self.class_weights = torch.tensor(class_weights, device=accelerator.device)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return len(self.batches)

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * len(self.batches)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the last epochs have brought nothing better."""
        return self.step >= self.total or self.extras.exhausted(self.history)

    @processes_gone()
    def run(self, callbacks: Callbacks = QUIET) -> bool:
        """Train to the end.

        Args:
            callbacks: ``advance`` is told of steps; ``note`` of every finished epoch, its :class:`Point` and the step.

        Returns:
            Whether the training is finished.

        Raises:
            DivergedError: the loss is infinite or NaN, or the penalty is (racecar's NonFiniteError).
            StudyError: out of memory; an image that is decoded on the way is damaged.
        """
        device = self.accelerator.device
        timer = Timer(callbacks.save_every)
        sums = self.sums.to(device)
        self.training_mode()
        while not self.finished:
            epoch, first = divmod(self.step, len(self.batches))
            began = time.perf_counter()
            stopped = due = False
            for batch, labels, share in self.batches.epoch(epoch, first):
                sums = sums + self._step(batch, labels, share)
                self.step += 1
                callbacks.advance(1)
                stopped, due = self._agreed(callbacks.stop(), timer.due)
                due = due or stopped
                if due and self.step % len(self.batches):  # after the last batch: below, with the epoch's point
                    timer.restart()
                    self.sums = sums.cpu()
                    self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                    callbacks.save(self.state())
                    if stopped:
                        return False
            sums = self.accelerator.reduce(sums) if self.accelerator.num_processes > 1 else sums
            total = sums.cpu()  # waits for the device
            self.seconds += time.perf_counter() - began
            self._end_epoch(epoch + 1, total, callbacks.alive)
            callbacks.note(self.history[-1], self.step)
            sums = torch.zeros_like(sums)
            self.sums, self.seconds = torch.zeros(4, dtype=torch.float64), 0.0
            if due:
                timer.restart()
                callbacks.save(self.state())
                if stopped and not self.finished:
                    return False
            self.training_mode()
        return True

    def training_mode(self) -> None:
        """All in training mode but what stays in evaluation mode."""
        self.wrapped.train()
        for module in self.eval_modules:
            module.eval()

    def _agreed(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save: all processes or none, at the same step."""
        if self.accelerator.num_processes == 1:
            return stop, save
        if self.step % 16:  # asking waits for the slowest process
            return False, False
        flags = torch.tensor([float(stop), float(save)], device=self.accelerator.device)
        stop, save = (self.accelerator.reduce(flags) > 0).tolist()
        return stop, save

    @contextmanager
    def unsharded(self) -> Iterator[nn.Module]:
        """The model with whole weights on every process; all of them enter together."""
        objective = self.objective
        if not isinstance(objective, FSDPModule):
            yield objective.model
            return
        objective.unshard()
        try:
            yield objective.model
        finally:
            objective.reshard()

    def weights(self) -> dict[str, Tensor]:
        """The plain model's state, averaged if the weights are, or the best epoch's; all processes call."""
        if self.best:
            return self.best
        own = self.objective.model.state_dict() if self.average is None else self.average.tensors
        return {name: whole(value) for name, value in own.items()}

    @property
    def weight(self) -> float:
        """λ of the compared layers, the first one's where they differ; 0 without a reverse pass."""
        return 0.0 if self.objective.rr is None else float(self.objective.rr.lambdas[0])

    @property
    def kept(self) -> Point:
        """The epoch whose weights :meth:`weights` gives."""
        return self.extras.kept(self.history)

    def _step(self, batch: Tensor, labels: Tensor, share: float) -> Tensor:
        """One step of the optimiser; sums over this process's images: cross entropy, penalty, right ones, images."""
        world = self.accelerator.num_processes
        self.seed_step(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step, len(self.batches)) * group.get("scale", 1.0)
        try:
            batch, targets = self.augmented(batch, labels, self.step)
            output, loss, penalty = self.forward(self.wrapped, batch, targets)
            self.prepared.zero_grad()
            ours, theirs = self.shared(loss, penalty, share)
            whole = ours + theirs
            if self.alone:
                whole.backward()
            else:
                self.accelerator.backward(whole)
            self._clip()
            self.prepared.step()
            if self.average is not None:
                self.average.update(self.objective.model, self.step)
        except torch.OutOfMemoryError as error:
            smaller = self.recipe.batch_size // 2
            raise StudyError(
                f"out of memory on {batch.device} with batches of {self.recipe.batch_size}: try --batch-size "
                f"{max(smaller, 1)}, bfloat16 precision, or smaller images"
            ) from error
        with torch.no_grad():
            count = len(labels)
            right = (output.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()
            # A sum's parts add up: each counts for all images of the batch, count · world / share.
            total = penalty * (world / share if self.objective.summed else 1)
            return torch.stack(
                [
                    loss.double() * count,
                    total.double() * count,
                    right.double(),
                    loss.new_full((), count, dtype=torch.float64),
                ]
            )

    def seed_step(self, step: int) -> None:
        """Make all that is drawn in a step a function of its number."""
        number = (self.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index
        # Within 32 bits, which is all that the CPU's generator takes.
        seed_device(self.accelerator.device, number ^ self.salt)
        self.objective.at(step, self.seed * 1_000_003 + step)

    def augmented(self, batch: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """A step's batch as the network sees it, see :meth:`.extras.Extras.augmented`."""
        size, classes = self.recipe.batch_size, len(self.data.classes)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        seed = 2**62 + self.order * 1_000_003 + step  # far from the seeds that order the images
        return self.extras.augmented(batch, labels, classes, size, seed, rank, world)

    def forward(self, objective: nn.Module, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, the mean cross entropy over this process's images, and the penalty.

        Args:
            objective: the trainer's own, or a wrapper of it.
            batch: [n, C, H, W].
            labels: [n], or their probabilities [n, classes].
        """
        with torch.autocast(batch.device.type, self.precision, enabled=self.precision is not None):
            output, penalty = objective(batch)
            smoothing, weights = self.recipe.label_smoothing, self.class_weights
            if not self.labelled:
                loss = 0 * output.float().sum()  # the last layer has a gradient, for processes that wait for one
            elif weights is None:
                loss = F.cross_entropy(output, labels, label_smoothing=smoothing)
            else:  # torch's own mean is over the weights of the batch at hand, which no share of it knows
                each = F.cross_entropy(output, labels, weights, label_smoothing=smoothing, reduction="none")
                loss = each.mean()
        return output, loss, penalty

    def shared(self, loss: Tensor, penalty: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Both as they are added up, for processes whose gradients are averaged.

        What is a mean weighs as its share of the batch, what is a sum over images as it is.
        """
        return loss * share, penalty * (self.accelerator.num_processes if self.objective.summed else share)

    def _clip(self) -> None:
        """Shorten the gradient of both losses together."""
        if not self.extras.clip:
            return
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        if self.alone:
            nn.utils.clip_grad_norm_(parameters, self.extras.clip)
        else:
            self.accelerator.clip_grad_norm_(parameters, self.extras.clip)

    def _end_epoch(self, epoch: int, sums: Tensor, alive: Callable[[], None]) -> None:
        loss, penalty, right, count = sums.tolist()
        if not math.isfinite(loss + penalty):
            raise DivergedError(
                f"the loss is not finite in epoch {epoch} (learning rate "
                f"{self.recipe.rate(self.step - 1, len(self.batches)):g}): lower the learning rate"
            )
        measured = self._measured(alive) if epoch in self.evaluated else {}
        rate = right / count if self.labelled else None
        self.history.append(
            Point(epoch, loss / count, penalty / count, rate, seconds=self.seconds, **{"accuracy": None, **measured})
        )
        if self.extras.keep == "best" and self.kept is self.history[-1]:
            self.best = {}
            self.best = self.weights()

    def _measured(self, alive: Callable[[], None]) -> dict[str, float]:
        """Of a :class:`Point`."""
        if self.labelled:
            top1, top5 = self.accuracy(alive)
            return {"accuracy": top1, "top5": top5}
        rr = self.objective.rr
        assert rr is not None
        with self._as_kept():
            error = regeneration_error(
                rr, self.data, batch=self._test_batch, precision=self.precision, accelerator=self.accelerator,
                alive=alive,
            )  # fmt: skip
        return {"error": error}

    def accuracy(self, alive: Callable[[], None] = QUIET.alive) -> tuple[float, float]:
        """Top-1 and top-5 on the test images, now, of the averaged weights if there are; ``alive``: after a batch."""
        with self._as_kept() as model:
            return accuracy(
                model,
                self.data,
                batch=self._test_batch,
                precision=self.precision,
                accelerator=self.accelerator,
                alive=alive,
            )

    @property
    def _test_batch(self) -> int:
        return min(1000, 4 * self.recipe.batch_size)  # fits where a training step fits

    @contextmanager
    def _as_kept(self) -> Iterator[nn.Module]:
        """The model with the weights that would be kept now."""
        with self.unsharded() as model, self.average.put_in(model) if self.average is not None else nullcontext():
            if self.accelerator.num_processes > 1:  # running statistics are the main process's, as in a checkpoint
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, 0)
            yield model

    # --- saved states -------------------------------------------------------------------------------------------------

    def state(self) -> Progress:
        """Everything needed to go on from here; all processes call."""
        sums = self.sums[None].to(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.gather(sums)
        tensors = pack(self.modules, [self.optimiser]) | {"sums": sums.cpu()}
        if self.average is not None:
            tensors |= {f"average.{name}": value.clone() for name, value in self.average.tensors.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        if self.objective.rr is not None:
            tensors["lambdas"] = self.objective.rr.lambdas.clone()
        scaler = self.accelerator.scaler
        metadata = {
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(p) for p in self.history],
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        return Progress(tensors, metadata)

    def _own(self, sums: Tensor) -> Tensor:
        """This process's of an epoch's sums, [processes, 4]; with another number of processes the first has all."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if sums.shape == (world, 4):
            return sums[rank].clone()
        return sums.reshape(-1, 4).sum(0) if rank == 0 else torch.zeros_like(self.sums)

    def restore(self, state: Progress) -> None:
        """Go on from a saved state of the same training.

        Raises:
            StudyError: a state of something else.
        """
        with state.restored():
            if not 0 <= int(state.metadata["step"]) <= self.total:
                raise ValueError(f"step {state.metadata['step']} of {self.total}")
            unpack(state.tensors, self.modules, [self.optimiser])
            if self.average is not None:
                self.average.restore(below(state.tensors, "average."))
            self.best = below(state.tensors, "best.")
            if self.objective.rr is not None and "lambdas" in state.tensors:  # older states have none
                self.objective.rr.lambdas = state.tensors["lambdas"].to(self.objective.rr.lambdas)
            self.sums = self._own(state.tensors["sums"])
            self.seconds = float(state.metadata["seconds"])
            self.step = int(state.metadata["step"])
            self.history = [Point(**p) for p in state.metadata["history"]]
            if self.accelerator.scaler is not None and state.metadata.get("scaler"):
                self.accelerator.scaler.load_state_dict(state.metadata["scaler"])
