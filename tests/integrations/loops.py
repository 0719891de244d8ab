"""One step of the optimiser by every framework, in one process or two: a script of its own, which forks.

The batch of 8 is divided among processes and over two accumulated steps; the penalty is a sum over the batch. All of
them write the plain model's weights: ``accelerate-2-rank0.safetensors``, …
"""

import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import torch
import torch._export
import torch.fx.experimental.symbolic_shapes
from accelerate import Accelerator
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from processes import together
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainingArguments

import racecar
from racecar.integrations import penalty_scale
from racecar.integrations.lightning import RacecarMixin
from racecar.integrations.trainer import RacecarTrainer

OPTIONS: dict[str, Any] = {"weight": 0.02, "reduction": "sum"}
STEPS = 2  # accumulated


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5)


def whole(factor: float) -> dict[str, Tensor]:
    """The whole batch at once, in a loop of one's own."""
    model, (inputs, labels) = net(), data()
    output, penalty = racecar.Racecar(model, inputs, **OPTIONS)(inputs)
    (cross_entropy(output, labels) + factor * penalty).backward()
    sgd(model).step()
    return model.state_dict()


def by_accelerate(processes: int) -> dict[str, Tensor]:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=STEPS)
    model = net()
    rr = racecar.Racecar(model, data()[0], **OPTIONS)
    loader = DataLoader(TensorDataset(*data()), batch_size=8 // STEPS // processes)
    parallel, optimizer, batches = accelerator.prepare(rr, sgd(model), loader)
    for inputs, labels in batches:
        with accelerator.accumulate(parallel):
            output, penalty = parallel(inputs)
            factor = penalty_scale(rr, accelerator.num_processes, accelerator.gradient_accumulation_steps)
            accelerator.backward(cross_entropy(output, labels) + factor * penalty)
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


class Lit(RacecarMixin, lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module = net()
        self.add_racecar(self.model, **OPTIONS)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        output, penalty = self.racecar(batch[0])
        return cross_entropy(output, batch[1]) + penalty

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.model)


def by_lightning(processes: int) -> dict[str, Tensor]:
    lit = Lit()
    parallel: dict[str, Any] = {"strategy": "ddp", "plugins": [TorchElasticEnvironment()]} if processes > 1 else {}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=processes, max_epochs=1, accumulate_grad_batches=STEPS, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **parallel,
    )  # fmt: skip
    trainer.fit(lit, DataLoader(TensorDataset(*data()), batch_size=8 // STEPS // processes))
    assert set(lit.state_dict()) == {f"model.{name}" for name in lit.model.state_dict()}
    return lit.model.state_dict()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(inputs)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def make_trainer(processes: int, **more: Any) -> RacecarTrainer:
    model, (inputs, labels) = Model(), data()
    # Trainer keeps the labels for a loss function of the user's own.
    example = {"inputs": inputs} | ({} if "compute_loss_func" in more else {"labels": labels})
    rr = racecar.Racecar(model, example, **OPTIONS)
    options = TrainingArguments(
        "trainer", max_steps=1, per_device_train_batch_size=8 // STEPS // processes, use_cpu=True,
        gradient_accumulation_steps=STEPS, lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no",
        logging_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    dataset = [{"inputs": x, "labels": int(y), "unused": 0} for x, y in zip(inputs, labels, strict=True)]
    return RacecarTrainer(
        rr, args=options, train_dataset=dataset, eval_dataset=dataset, optimizers=(sgd(model), None), **more
    )


def by_trainer(processes: int) -> dict[str, Tensor]:
    trainer = make_trainer(processes)
    trainer.train()
    return trainer.model.model.net.state_dict()


def mean_over_the_whole(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """A ``compute_loss_func``: divided by the items of all accumulated steps."""
    return cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


def by_trainer_with_a_loss(processes: int) -> dict[str, Tensor]:
    trainer = make_trainer(processes, compute_loss_func=mean_over_the_whole)
    trainer.train()
    return trainer.model.model.net.state_dict()


LOOPS: dict[str, Callable[[int], dict[str, Tensor]]] = {
    "accelerate": by_accelerate,
    "lightning": by_lightning,
    "trainer": by_trainer,
    "trainer-loss": by_trainer_with_a_loss,
}


def run(processes: int, rank: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the frameworks' own
    logging.disable(logging.WARNING)
    for name, loop in LOOPS.items():
        state = {k: v.detach().clone() for k, v in loop(processes).items()}
        save_file(state, f"{name}-{processes}-rank{rank}.safetensors")
    if rank == 0:
        save_file(whole(1.0), "whole.safetensors")
        save_file(whole(0.0), "without.safetensors")


if __name__ == "__main__":
    sys.exit(max(code for count in (1, 2) for code in map(abs, together(count, partial(run, count)))))
