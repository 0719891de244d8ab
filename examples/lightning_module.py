"""Racecar training with Lightning: ``python examples/lightning_module.py --steps 100``."""

import logging

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import digits
from racecar.integrations.lightning import RacecarMixin


class Digits(RacecarMixin, lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module = digits.network()
        self.add_racecar(self.model, weight=digits.WEIGHT)  # the added line

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        output, penalty = self.racecar(images)
        loss = cross_entropy(output, labels) + penalty
        digits.report(loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return digits.optimizer(self.model)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    steps = digits.arguments().steps
    trainer = lightning.Trainer(
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), digits.batches(steps))
