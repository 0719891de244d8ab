"""Pairs of a source and a target task over the same images: mostly coarse labels for phase I, fine ones for B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F

from racecar.study.coarse_to_fine.sources import CIFAR10, CIFAR100, FASHION, MNIST, Source, Superposed
from racecar.study.coarse_to_fine.superclasses import SUPERCLASSES
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

Network = Literal["mlp", "conv"]


@dataclass(frozen=True)
class Pair:
    """Coarse labels for task A over the fine labels of task B.

    Attributes:
        title: for reports.
        source: the data set.
        groups: the classes of task A by name: the classes of the data set that each holds, as numbers or as names.
        network: which is trained.
        margin: δ, the smallest difference in accuracy that matters.
        tuning: the pair that tuning values are chosen on; "" for one that serves for that.
        candidate: the racecar variant of the hypothesis; "": the one that did best on the tuning pair.
        least: the gain over the best control that the hypothesis asks for.
        fine: the classes of task B, likewise; None: those of the data set.
        presets: what the files with its presets are called by, if not by its own name.
    """

    title: str
    source: Source | Superposed
    groups: Mapping[str, Sequence[int | str]]
    network: Network
    margin: float
    tuning: str = ""
    candidate: str = ""
    least: float = 0.02
    fine: Mapping[str, Sequence[int | str]] | None = None
    presets: str = ""

    def task_a(self, images: Images) -> Images:
        """The same images with the labels of task A.

        Raises:
            StudyError: the classes of the data set are not those of the groups.
        """
        return self._grouped(images, self.groups)

    def task_b(self, images: Images) -> Images:
        """The same images with the labels of task B.

        Raises:
            StudyError: see :meth:`task_a`.
        """
        return images if self.fine is None else self._grouped(images, self.fine)

    def _grouped(self, images: Images, groups: Mapping[str, Sequence[int | str]]) -> Images:
        table = torch.full((len(images.classes),), -1)
        for number, members in enumerate(groups.values()):
            for member in members:
                if isinstance(member, str) and member not in images.classes:
                    raise StudyError(f"{self.source.title} has no class {member!r}, which {self.title} needs")
                table[images.classes.index(member) if isinstance(member, str) else member] = number
        if missing := [c for c, n in zip(images.classes, table.tolist(), strict=True) if n < 0]:
            raise StudyError(f"{self.source.title} has classes that no group of {self.title} holds: {missing[:5]}")
        return Images(images.pixels, table[images.labels], tuple(groups))

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


def _superposed(base: Source, over: Source, share: float, tuning: str) -> Pair:
    """A: what lies below; B: what is laid over it."""
    return Pair(
        f"{base.title} → {over.title} laid over it, a share of {share:g} of the variance",
        Superposed(base, over, share),
        {f"{base.title} {c}": range(10 * c, 10 * c + 10) for c in _DIGITS},
        "mlp",
        0.01,
        tuning,
        "RR1",
        fine={f"{over.title} {c}": range(c, 100, 10) for c in _DIGITS},
        presets="superposed",
    )


SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5)  # of the variance
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
        "superposed-tuning": _superposed(FASHION, MNIST, 0.03, ""),
        **{f"superposed-{share:g}": _superposed(MNIST, FASHION, share, "superposed-tuning") for share in SHARES},
    }
)
