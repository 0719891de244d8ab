"""Racecar training with Hugging Face's Trainer: ``python examples/trainer.py --steps 100``."""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import TrainingArguments

import digits
import racecar
from racecar.integrations.trainer import RacecarTrainer


class Classifier(nn.Module):
    """Takes and gives what transformers' models do; one of these needs no such class."""

    def __init__(self) -> None:
        super().__init__()
        self.network = digits.network()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Printing(RacecarTrainer):
    """Batches in the order of the other examples, and a line for every step."""

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, self.args.train_batch_size, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def training_step(self, *arguments: Any, **keywords: Any) -> Tensor:
        loss = super().training_step(*arguments, **keywords)
        digits.report(loss)
        return loss


if __name__ == "__main__":
    steps = digits.arguments().steps
    images, labels = digits.images_and_labels(steps)
    data = [{"pixel_values": x, "labels": int(y)} for x, y in zip(images, labels, strict=True)]
    model = Classifier()
    example = {"pixel_values": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2, dtype=torch.long)}
    rr = racecar.Racecar(model, example, weight=digits.WEIGHT)  # the added line

    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=digits.BATCH,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Printing(rr, args=options, train_dataset=data, optimizers=(digits.optimizer(model), None)).train()
