"""Pairs of a source and a target task: one data set, coarse labels for phase I, its own fine labels for B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F

from racecar.study.coarse_to_fine import idx
from racecar.study.coarse_to_fine.superclasses import SUPERCLASSES
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation

Network = Literal["mlp", "conv"]


@dataclass(frozen=True)
class Source:
    """A data set, on the hub or in a folder.

    Attributes:
        title: for reports.
        hub: its name there.
        folder: its folder's name, with parquet or with the four files of MNIST's format.
        channels: 1 or 3.
    """

    title: str
    hub: str
    folder: str
    channels: int

    def load(self, where: str) -> tuple[Images, Images]:
        """Training and test images.

        Args:
            where: ``"hub"``, or a folder that holds :attr:`folder`.

        Raises:
            StudyError: it is not there, or is something else.
        """
        if where == "hub":
            train, test, _ = train_and_validation(self.hub, channels=self.channels)
            return train, test
        path = Path(where) / self.folder
        if not path.is_dir():
            raise StudyError(f"{path} does not exist: --data takes hub, or a folder with {self.folder} in it")
        if idx.is_there(path):
            return idx.read(path)
        train, test, _ = train_and_validation(str(path), channels=self.channels)
        return train, test


MNIST = Source("MNIST", "ylecun/mnist", "mnist", 1)
FASHION = Source("Fashion-MNIST", "zalando-datasets/fashion_mnist", "fashion-mnist", 1)
CIFAR10 = Source("CIFAR-10", "uoft-cs/cifar10", "cifar10", 3)
CIFAR100 = Source("CIFAR-100", "uoft-cs/cifar100", "cifar100", 3)


@dataclass(frozen=True)
class Pair:
    """Coarse labels for task A over the fine labels of task B.

    Attributes:
        title: for reports.
        source: the data set.
        groups: the coarse classes by name: their fine classes, as numbers or as names.
        network: which is trained.
        margin: δ, the smallest difference in accuracy that matters.
        tuning: the pair that tuning values are chosen on; "" for one that serves for that.
        candidate: the racecar variant of the hypothesis; "": the one that did best on the tuning pair.
        least: the gain over the best control that the hypothesis asks for.
    """

    title: str
    source: Source
    groups: Mapping[str, Sequence[int | str]]
    network: Network
    margin: float
    tuning: str = ""
    candidate: str = ""
    least: float = 0.02

    def coarse(self, images: Images) -> Images:
        """The same images with their coarse labels.

        Raises:
            StudyError: the fine classes of the data set are not those of the groups.
        """
        table = torch.full((len(images.classes),), -1)
        for number, members in enumerate(self.groups.values()):
            for member in members:
                if isinstance(member, str) and member not in images.classes:
                    raise StudyError(f"{self.source.title} has no class {member!r}, which {self.title} needs")
                table[images.classes.index(member) if isinstance(member, str) else member] = number
        if missing := [c for c, n in zip(images.classes, table.tolist(), strict=True) if n < 0]:
            raise StudyError(f"{self.source.title} has classes that no group of {self.title} holds: {missing[:5]}")
        return Images(images.pixels, table[images.labels], tuple(self.groups))

    @property
    def is_reported(self) -> bool:
        """Whether results are for others than those who tune."""
        return bool(self.tuning)

    def prepared(self, images: Images) -> Images:
        """As the network sees them: the MLP's are averaged over 2 × 2 pixels."""
        if self.network == "conv":
            return images
        small = F.avg_pool2d(images.pixels.float(), 2).round().to(torch.uint8)
        return Images(small, images.labels, images.classes)


_DIGITS = range(10)
PAIRS: Mapping[str, Pair] = MappingProxyType(
    {
        "mnist-parity": Pair(
            "MNIST, even and odd → ten digits",
            MNIST,
            {"even": [d for d in _DIGITS if d % 2 == 0], "odd": [d for d in _DIGITS if d % 2]},
            "mlp",
            0.005,
            "mnist-halves",
            "RR1",
        ),
        "mnist-halves": Pair(
            "MNIST, low and high → ten digits", MNIST, {"0 to 4": range(5), "5 to 9": range(5, 10)}, "mlp", 0.005
        ),
        "fashion-groups": Pair(
            "Fashion-MNIST, kinds of clothing → ten classes",
            FASHION,
            {"tops": (0, 2, 4, 6), "trousers and dresses": (1, 3), "shoes": (5, 7, 9), "bags": (8,)},
            "mlp",
            0.01,
            "mnist-halves",
            "RR1",
        ),
        "cifar10-animals": Pair(
            "CIFAR-10, vehicles and animals → ten classes",
            CIFAR10,
            {"vehicles": (0, 1, 8, 9), "animals": (2, 3, 4, 5, 6, 7)},
            "conv",
            0.01,
            "cifar10-halves",
        ),
        "cifar10-halves": Pair(
            "CIFAR-10, first and last five classes → ten classes",
            CIFAR10,
            {"0 to 4": range(5), "5 to 9": range(5, 10)},
            "conv",
            0.01,
        ),
        "cifar100-superclasses": Pair(
            "CIFAR-100, 20 superclasses → 100 classes", CIFAR100, SUPERCLASSES, "conv", 0.01, "cifar10-halves"
        ),
    }
)
