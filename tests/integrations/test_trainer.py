"""The Trainer's own checks; what it computes in training is in test_loops.py and test_examples.py."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

import racecar
from racecar.integrations.trainer import RacecarTrainer

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        logits = self.net(pixel_values)
        return ImageClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


def trainer(folder: Path, weight: float = 5.0) -> RacecarTrainer:
    torch.manual_seed(0)
    model, x, y = Classifier(), torch.randn(12, 6), torch.arange(12) % 3
    rr = racecar.Racecar(model, {"pixel_values": x, "labels": y}, weight=weight)
    data = [{"pixel_values": a, "labels": int(b), "name": "not the model's"} for a, b in zip(x, y, strict=True)]
    options = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, use_cpu=True, save_steps=2, logging_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    return RacecarTrainer(rr, args=options, train_dataset=data, eval_dataset=data)


def test_the_loss_has_the_penalty_in_training_alone(tmp_path) -> None:
    found = trainer(tmp_path)
    rr, inputs = found.model, {"pixel_values": torch.randn(4, 6), "labels": torch.arange(4) % 3}
    outputs, penalty = rr(**inputs)
    assert penalty > 0.1
    loss, returned = found.compute_loss(rr, dict(inputs), return_outputs=True)
    torch.testing.assert_close(loss, outputs.loss + penalty)
    assert torch.equal(returned.logits, outputs.logits)
    rr.eval()
    assert torch.equal(found.compute_loss(rr, dict(inputs)), outputs.loss)


def test_evaluation_is_that_of_the_plain_model(tmp_path) -> None:
    found = trainer(tmp_path)
    x, y = (torch.stack([torch.as_tensor(e[k]) for e in found.eval_dataset]) for k in ("pixel_values", "labels"))
    with torch.no_grad():
        expected = found.model.model(x, y)
    prediction = found.predict(found.eval_dataset)
    assert prediction.metrics["test_loss"] == pytest.approx(float(expected.loss), abs=1e-5)
    assert torch.equal(torch.as_tensor(prediction.label_ids), y)
    torch.testing.assert_close(torch.as_tensor(prediction.predictions), expected.logits)


def test_its_checkpoints_resume(tmp_path) -> None:
    first = trainer(tmp_path)
    first.train()
    again = trainer(tmp_path)
    again.args.max_steps = 2
    again.train(resume_from_checkpoint=True)
    for left, right in zip(first.model.model.parameters(), again.model.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_plain_model_is_refused(tmp_path) -> None:
    with pytest.raises(racecar.ArgumentError, match=r"RacecarTrainer\(racecar\.Racecar\(model, example\)"):
        RacecarTrainer(Classifier(), args=TrainingArguments(str(tmp_path)))
