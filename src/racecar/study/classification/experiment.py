"""What a classification study consists of: its configuration, and what an experiment supplies (data, network, penalty).

A network is pretrained on task A, then continues on A or goes over to B; digits and CIFAR are two of the experiments.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from racecar.study.classification.batches import Data, InMemory, Normalisation
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.core.counts import at_least_one
from racecar.study.core.folder import Study
from racecar.study.core.methods import Need, forms
from racecar.study.core.variants import START, Run, Variant, plan
from racecar.study.images.decoded import Images

TASKS: tuple[Literal["A", "B"], ...] = ("A", "B")
SHARES = {"1pct": 0.01, "10pct": 0.1}  # of B's labels
OFFERS = frozenset({Need.LONGER, Need.REVERSE, Need.ARGUMENTS, Need.DECODER, Need.REGULARISER})  # for a method
SAMPLES = 10  # test images that the report regenerates


@dataclass(frozen=True)
class ClassificationConfig:
    """What can be chosen in a classification study.

    Attributes:
        variants: of phase I, see :class:`racecar.study.core.variants.Variant`.
        seeds: how many, counted from 0.
        phases: which phases, see :mod:`racecar.study.core.variants`.
        train_images, test_images: a class-balanced subset of each task; None: all.
        architecture: which network, where an experiment has several.
        width: channels of the first layer, 64 in the paper.
        weight: λ_1 to λ_s, with the loss summed over batch and units.
        ort_weight: β of Eq. 2 (not given in the paper).
        compute_match: epochs of StdC in phase I as a multiple of Std's: the FLOPs of a racecar step over a plain one.
        a, aa, ab, b: recipes of the phases; ``ab`` and ``b`` also serve their ways (probe, 1pct, 10pct).
        few_epochs: epochs where only a share of B's labels is used; None: as with all labels.
        evaluations: how often test accuracy is measured in a run.
    """

    variants: list[str] = field(default_factory=lambda: ["Std"])
    seeds: int = 5
    phases: list[str] = field(default_factory=lambda: ["A", "B", "AA", "AB"])
    train_images: int | None = None
    test_images: int | None = None
    architecture: str = ""
    width: int = 64
    weight: float = 1e-5
    ort_weight: float = 1e-2
    compute_match: float = 2.06
    a: Recipe = field(default_factory=Recipe)
    aa: Recipe = field(default_factory=Recipe)
    ab: Recipe = field(default_factory=Recipe)
    b: Recipe = field(default_factory=Recipe)
    few_epochs: int | None = None
    evaluations: int = 20

    WAYS: ClassVar[tuple[str, ...]] = ("probe", *SHARES)

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "width", "evaluations", "train_images", "test_images", "few_epochs")
        for name in ("weight", "ort_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not self.compute_match >= 1:
            raise ValueError(f"compute_match must be at least 1, not {self.compute_match}")
        if not self.variants:
            raise ValueError("variants is empty: name at least one, e.g. Std")
        for run in self.runs():
            if run.way not in ("", *self.WAYS):
                raise ValueError(f"no phase {run.phase!r}: ways are {', '.join(self.WAYS)}")

    def runs(self) -> list[Run]:
        """Every run of the study, sources before what continues from them."""
        return plan([Variant.parse(v) for v in self.variants], range(self.seeds), self.phases)

    def recipe(self, run: Run) -> Recipe:
        """The hyper-parameters of a run."""
        recipe: Recipe = getattr(self, run.path.lower())
        length = run.variant.method.length(self.compute_match) if run.phase == "A" else 1.0
        if length != 1:
            return dataclasses.replace(
                recipe,
                epochs=round(recipe.epochs * length),
                milestones=tuple(round(m * length) for m in recipe.milestones),
            )
        if run.way in SHARES and self.few_epochs is not None:
            return dataclasses.replace(recipe, epochs=self.few_epochs)
        return recipe

    def source(self, run: Run) -> Run | None:
        """The run whose weights this one continues from."""
        if run.phase == "A" and START in self.phases:
            return Run(Variant("Std"), START, run.seed)
        return run.source


@dataclass(frozen=True)
class Task:
    """Training and test images of one task, in memory."""

    train: Images
    test: Images

    def to(self, device: torch.device) -> Task:
        """The images of both, on a device."""
        return Task(self.train.to(device), self.test.to(device))


class Experiment(ABC):
    """What distinguishes one classification study from another."""

    name: ClassVar[str]
    title: ClassVar[str]
    head: ClassVar[str]  # prefix of the parameters of the last layer, new for a task with other classes
    config: ClassVar[type[ClassificationConfig]] = ClassificationConfig
    regenerated: ClassVar[int] = 1000  # test images that regeneration is measured on
    delta: ClassVar[float] = 0.01  # δ, the smallest difference in accuracy that matters
    together: ClassVar[bool] = False  # whether several processes can train one run together

    @abstractmethod
    def load(
        self, source: str, config: ClassificationConfig, file: Path | None
    ) -> tuple[dict[str, Task], dict[str, str]]:
        """Both tasks, and words on where each comes from, for every table.

        Args:
            source: a folder with one folder per data set, or ``"hub"``.
            config: of the study.
            file: a data set's published file, where an experiment has one.
        """

    @abstractmethod
    def network(self, config: ClassificationConfig, channels: int, size: int, classes: int, seed: int) -> nn.Module:
        """The network with weights drawn from its own generator."""

    @abstractmethod
    def depth(self, config: ClassificationConfig) -> int:
        """How many layers the reverse pass can compare: the highest s of RR^s in this study."""

    def normalisation_of(self, study: Study, config: ClassificationConfig) -> Normalisation:
        """How the images of task A that a study has kept are normalised."""
        return self.normalisation(config, self.kept(study, config)["A"])

    def measure(self, config: ClassificationConfig, metadata: Mapping[str, Any]) -> Literal["accuracy", "top5"]:
        """The accuracy that tables show, top-1 or top-5.

        Args:
            config: of the study.
            metadata: the content of study.json.
        """
        return "accuracy"

    def order(self, run: Run) -> int:
        """The seed of order and augmentation: every phase of a seed has the same."""
        return run.seed

    def comparable(self, config: ClassificationConfig, metadata: Mapping[str, Any]) -> bool:
        """Whether the paper's accuracies may stand beside this study's."""
        return True

    def data(self, config: ClassificationConfig, run: Run, task: Task) -> Data:
        """What a run is trained and measured on: all images of its task, or the share that its way says."""
        train = task.train
        if run.way in SHARES:
            train, _ = train.stratified(max(len(train.classes), round(SHARES[run.way] * len(train))), run.seed)
        return InMemory(train, task.test, self.normalisation(config, task), channels_last=True)

    def subsets(
        self, tasks: dict[str, Task], words: dict[str, str], config: ClassificationConfig
    ) -> tuple[dict[str, Task], dict[str, str]]:
        """The share of every task that the configuration asks for, and words that say so."""

        def part(images: Images, count: int | None) -> Images:
            return images if count is None or count >= len(images) else images.stratified(count, 0)[0]

        smaller = {
            n: Task(part(t.train, config.train_images), part(t.test, config.test_images)) for n, t in tasks.items()
        }
        counts = {n: f"used here: {len(t.train)} training and {len(t.test)} test images" for n, t in smaller.items()}
        return smaller, {n: f"{words[n]}; {c}" for n, c in counts.items()}

    def keep(self, study: Study, tasks: dict[str, Task]) -> None:
        """Decoded images beside the runs: training processes map them instead of decoding again."""
        for name, task in tasks.items():
            task.train.write(study.folder / f"data-{name}-train.safetensors")
            task.test.write(study.folder / f"data-{name}-test.safetensors")

    def kept(self, study: Study, config: ClassificationConfig) -> dict[str, Task]:
        """The tasks' images as :meth:`keep` wrote them, by task; empty where nothing was kept yet."""
        found: dict[str, Task] = {}
        for name in TASKS:
            train, test = (study.folder / f"data-{name}-{part}.safetensors" for part in ("train", "test"))
            if train.exists() and test.exists():
                found[name] = Task(Images.read(train), Images.read(test))
        return found

    def check(self, config: ClassificationConfig) -> None:
        """Refuse variants that this study cannot train, or that the network has no layers for.

        Raises:
            ValueError: naming them.
        """
        depth = self.depth(config)
        if unfit := [v for v in config.variants if not Variant.parse(v).method.needs <= OFFERS]:
            raise ValueError(f"{', '.join(unfit)}: no variant of this study, use {forms(OFFERS, depth)}")
        if deeper := [v for v in config.variants if Variant.parse(v).depth > depth]:
            raise ValueError(f"{', '.join(deeper)}: the network of this study has {depth} layers to compare")

    def input_range(self, config: ClassificationConfig) -> Any:
        """How the regenerated input is mapped, see :class:`racecar.Racecar`."""
        return "paper"

    def normalisation(self, config: ClassificationConfig, task: Task) -> Normalisation:
        """How a task's images are normalised: here, pixels between 0 and 1."""
        return Normalisation.unit(task.train.shape[0])

    def objective(
        self,
        config: ClassificationConfig,
        variant: Variant,
        model: nn.Module,
        example: Tensor,
        decoder: Callable[[], nn.Module] | None = None,
    ) -> Objective:
        """What a variant minimises beside the cross entropy in phase I.

        Args:
            config: of the study.
            variant: what is trained.
            model: as phase I begins with it.
            example: an input batch, where the variant has a reverse pass.
            decoder: makes the module whose weights an untied decoder starts from.
        """
        return Objective.of(
            variant.method, config, model, example, input_range=self.input_range(config), decoder=decoder
        )
