"""The CIFAR study: its data, and the networks of the paper's recipe (Table 11) and of a strong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from racecar.study.cifar import network
from racecar.study.classification.batches import Normalisation
from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.images.load import train_and_validation

HUB = {"A": "uoft-cs/cifar10", "B": "uoft-cs/cifar100"}
FOLDERS = {"A": "cifar10", "B": "cifar100"}
NAMES = {"A": "CIFAR-10", "B": "CIFAR-100"}


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
            train, test = train_and_validation(where, channels=3)
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
