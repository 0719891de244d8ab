"""The CIFAR study: the paper's recipe (Tables 11, 12) and a strong one, and their presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from racecar.study.cifar import network
from racecar.study.classification.batches import Normalisation
from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.classification.images import train_and_validation
from racecar.study.core.initialisation import initialise_glorot

HUB = {"A": "uoft-cs/cifar10", "B": "uoft-cs/cifar100"}
FOLDERS = {"A": "cifar10", "B": "cifar100"}
NAMES = {"A": "CIFAR-10", "B": "CIFAR-100"}


def preset(name: str, recipe: str) -> dict[str, Any]:
    """Defaults by dotted name.

    The ``paper`` recipe is Table 12; the paper does not name the optimiser, which is Nesterov momentum here, and
    mentions neither augmentation nor weight decay, of which there is none. The ``strong`` recipe is another network
    and a present-day training, made to reach 93 % in 16 epochs; it asks for the transfer again with full fine-tuning, a
    linear probe and few labels. ``small`` is for two CPU cores: narrower networks, fewer images, fewer epochs.
    """
    found = _paper(name) if recipe == "paper" else _strong(name)
    for phase in ("a", "aa", "ab", "b"):
        found |= {f"{phase}.optimiser": "sgd", f"{phase}.learning_rate": 0.1, f"{phase}.precision": "bfloat16"}
    return found | {"weight": 1e-7, "architecture": "table-11" if recipe == "paper" else "strong"}


def _paper(name: str) -> dict[str, Any]:
    epochs, milestones = {"a": 180, "aa": 180, "ab": 50, "b": 50}, (80, 120)
    found: dict[str, Any] = {
        "variants": ["Std", "RR13", "RR13s", "RR1", "Ort", "Dec13", "StdC"],
        "seeds": 5,
        "compute_match": 2.0,
    }
    if name == "small":
        epochs, milestones = {"a": 8, "aa": 6, "ab": 4, "b": 4}, (4, 6)
        found |= {"width": 16, "train_images": 5_000, "test_images": 5_000, "seeds": 3, "evaluations": 8}
        found |= {f"{p}.batch_size": 100 for p in epochs}
    elif name == "quick":
        epochs, milestones = {"a": 2, "aa": 1, "ab": 1, "b": 1}, (1, 2)
        found |= {"width": 8, "train_images": 1_000, "test_images": 1_000, "seeds": 2, "variants": ["Std", "RR13"]}
        found |= {f"{p}.batch_size": 50 for p in epochs}
    else:
        found |= {f"{p}.batch_size": 200 for p in epochs}
    for phase, count in epochs.items():
        found |= {f"{phase}.epochs": count, f"{phase}.schedule": "steps", f"{phase}.milestones": milestones}
    return found


def _strong(name: str) -> dict[str, Any]:
    epochs = {"a": 16, "aa": 16, "ab": 16, "b": 16}
    found: dict[str, Any] = {
        "variants": ["Std", "RR7", "RR1", "Ort", "Dec7", "StdC"],
        "phases": ["A", "B", "AA", "AB", "AB-probe", "AB-10pct", "AB-1pct", "B-10pct", "B-1pct"],
        "seeds": 5,
        "few_epochs": 60,
        "compute_match": 2.0,
    }
    if name == "small":
        epochs = {"a": 6, "aa": 4, "ab": 4, "b": 6}
        found |= {"width": 32, "train_images": 10_000, "test_images": 5_000, "seeds": 3, "evaluations": 5}
        found |= {"variants": ["Std", "RR7"], "few_epochs": 20}
        found["phases"] = ["A", "B", "AB", "AB-probe", "AB-10pct", "AB-1pct", "B-10pct", "B-1pct"]
    elif name == "quick":
        epochs = {"a": 2, "aa": 1, "ab": 1, "b": 1}
        found |= {"width": 8, "train_images": 1_000, "test_images": 1_000, "seeds": 2, "few_epochs": 2}
        found |= {"variants": ["Std", "RR7"], "phases": ["A", "B", "AB", "AB-probe", "AB-10pct", "B-10pct"]}
    for phase, count in epochs.items():
        found |= {
            f"{phase}.epochs": count,
            f"{phase}.batch_size": 128,
            f"{phase}.schedule": "cosine",
            f"{phase}.warmup": 0.2,
            f"{phase}.weight_decay": 5e-4,
            f"{phase}.label_smoothing": 0.1,
            f"{phase}.augmentation": "flip-crop",
        }
    return found


class Cifar(Experiment):
    """CIFAR-10 → CIFAR-100."""

    name = "cifar"
    title = "Natural images: CIFAR-10, then CIFAR-100"
    head = "head"

    def load(
        self, source: str, config: ClassificationConfig, file: Path | None
    ) -> tuple[dict[str, Task], dict[str, str]]:
        """Both data sets, from the hub or a folder with ``cifar10`` and ``cifar100`` in it."""
        tasks, words = {}, {}
        for task in ("A", "B"):
            where = HUB[task] if source == "hub" else str(Path(source) / FOLDERS[task])
            train, test, _ = train_and_validation(where, channels=3)
            tasks[task] = Task(train, test)
            words[task] = f"{NAMES[task]} from " + ("the hub" if source == "hub" else "local parquet files")
        return tasks, words

    def depth(self, config: ClassificationConfig) -> int:
        """Table 11's convolutions, or the strong network's."""
        return 7 if config.architecture == "strong" else 13

    def network(self, config: ClassificationConfig, channels: int, size: int, classes: int, seed: int) -> nn.Module:
        """Table 11's, or the strong recipe's."""
        if config.architecture == "strong":
            model = network.strong(classes, config.width, channels)
            network.initialise_strong(model, seed)
        else:
            model = network.table_11(classes, config.width, channels, size)
            initialise_glorot(model, seed)
        return model

    def normalisation(self, config: ClassificationConfig, task: Task) -> Normalisation:
        """The paper's network sees pixels between 0 and 1, the strong one standardised pixels."""
        if config.architecture == "strong":
            return Normalisation.of(task.train)
        return super().normalisation(config, task)

    def input_range(self, config: ClassificationConfig) -> Any:
        """Table 11 maps the regenerated input through batch norm and ReLU; around zero it stays as it is."""
        return None if config.architecture == "strong" else "paper"
