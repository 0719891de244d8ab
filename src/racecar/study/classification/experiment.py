"""Pretrain on task A, continue on A or transfer to B: the runs of a classification study, trained, kept and resumed.

What an experiment supplies (data, network, penalty) is :class:`Experiment`; digits and CIFAR are two of them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import racecar
from racecar.study.classification.batches import Data, InMemory, Normalisation
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import QUIET, Callbacks
from racecar.study.core.counts import at_least_one
from racecar.study.core.folder import Study
from racecar.study.core.methods import Need, forms
from racecar.study.core.resume import saved_state, slot, train_run
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


# --- training ---------------------------------------------------------------------------------------------------------


def cost(config: ClassificationConfig, run: Run) -> int:
    """Expected work of a run, in tenths of a plain epoch over all images."""
    recipe = config.recipe(run)
    step = run.variant.method.cost if run.phase == "A" else 1.0
    per_epoch = 4 if run.way == "probe" else round(10 * step)
    return max(1, round(recipe.epochs * per_epoch * SHARES.get(run.way, 1.0)))


def run_share(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    runs: Sequence[Run],
    callbacks: Callbacks = QUIET,
    *,
    shard: bool = False,
) -> bool:
    """Train the runs that are not finished, in order. Safe to stop or kill at any moment and to call again.

    Args:
        study: the folder, with its data kept.
        experiment: network and penalties.
        config: hyper-parameters.
        runs: this process's; sources before what continues from them.
        callbacks: ``advance`` is told in the unit of :func:`cost`; states are kept in the study's folder.
        shard: divide weights and moments among the processes that train a run together.

    Returns:
        Whether all are finished.
    """
    pending = [r for r in runs if not study.finished(r)]
    if not pending:
        return True
    accelerator = make_accelerator()
    tasks = {n: t.to(accelerator.device) for n, t in experiment.kept(study, config).items()}
    return all(_train(study, experiment, config, r, tasks, accelerator, callbacks, shard) for r in pending)


def _train(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    run: Run,
    tasks: dict[str, Task],
    accelerator: Accelerator,
    callbacks: Callbacks,
    shard: bool,
) -> bool:
    task, main = tasks[run.task], accelerator.is_main_process
    model, trainer = make_trainer(study, experiment, config, run, task, accelerator, shard)
    if (state := saved_state(study, run)) is not None:
        trainer.restore(state)
    accelerator.wait_for_everyone()
    failure = train_run(study, run, trainer, cost(config, run), callbacks, writes=main)
    if failure is None:
        return False
    history = [asdict(p) for p in trainer.history]
    for point in history:
        for name in ("loss", "penalty"):
            point[name] = round(point[name], 6)
        point["seconds"] = round(point["seconds"], 4)
    last = (
        (history[-1]["accuracy"], history[-1]["top5"]) if history and not failure else trainer.accuracy(callbacks.alive)
    )
    metrics: dict[str, Any] = {
        "epochs": len(history),
        "accuracy": last[0],
        "top5": last[1],
        "seconds_per_epoch": round(sorted(p["seconds"] for p in history)[len(history) // 2], 4) if history else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_images": trainer.data.train_count,
        "history": history,
    }
    if failure:
        metrics["diverged"] = failure
    if run.phase == "A":
        with trainer.unsharded():
            metrics["regeneration"] = regeneration(experiment, config, model, trainer)
    weights = trainer.weights()
    if main:
        study.finish(run, weights, metrics)
        study.drop_progress(slot(run))
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # it keeps what it has prepared
    return True


def make_trainer(
    study: Study,
    experiment: Experiment,
    config: ClassificationConfig,
    run: Run,
    task: Task,
    accelerator: Accelerator,
    shard: bool = False,
) -> tuple[nn.Module, Trainer]:
    """The network of a run, where its source has left it, and its training."""
    device, recipe = accelerator.device, config.recipe(run)
    data = experiment.data(config, run, task)
    channels, size, _ = data.shape

    def fresh(seed: int = run.seed) -> nn.Module:
        return experiment.network(config, channels, size, len(data.classes), seed)

    model, source = fresh(), config.source(run)
    if source is not None:
        load_source(model, study.weights(source), experiment.head)
    frozen: tuple[nn.Module, ...] = ()
    if run.way == "probe":
        frozen = freeze(model, experiment.head)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(model)
    if run.phase == "A":
        mirrored = bool(run.variant.method.arguments)
        example = data.some_tests(recipe.batch_size) if mirrored else torch.empty(0, device=device)
        objective = experiment.objective(config, run.variant, model, example, lambda: fresh(10_000 + run.seed))
    trainer = Trainer(
        objective,
        recipe,
        data,
        seed=run.seed,
        phase=run.phase,
        order=experiment.order(run),
        accelerator=accelerator,
        evaluations=config.evaluations,
        eval_modules=frozen,
        shard=shard,
    )
    return model, trainer


def load_source(model: nn.Module, weights: dict[str, Tensor], head: str) -> None:
    """Continue from a source's weights; the last layer starts anew where the task has other classes."""
    own = model.state_dict()
    fits = all(own[n].shape == w.shape for n, w in weights.items())
    kept = weights if fits else {n: w for n, w in weights.items() if not n.startswith(f"{head}.")}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not unexpected
    assert all(n.startswith(f"{head}.") for n in missing)


def freeze(model: nn.Module, head: str) -> tuple[nn.Module, ...]:
    """Train the last layer alone: the rest keeps its weights and its running statistics."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{head}."))
    return tuple(m for n, m in model.named_children() if n != head)


def regeneration(
    experiment: Experiment, config: ClassificationConfig, model: nn.Module, trainer: Trainer
) -> dict[str, float]:
    """How much of the input the reverse pass brings back (Figure 5): on test images, with batch statistics.

    Returns:
        ``error``: mean squared difference of I and I' over the variance of I, so 1 is as good as the mean image
        value. ``correlation``: between I and I' over the pixels of an image, averaged; 0 where I' is constant.
    """
    batch = trainer.data.some_tests(experiment.regenerated)
    layers = racecar.Racecar(model, batch[:2]).layers
    decoder = trainer.objective.rr.decoder if trainer.objective.rr is not None else None
    rr = racecar.Racecar(
        model, batch[:2], layers=len(layers), input_range=experiment.input_range(config), decoder=decoder
    )
    model.train()
    errors, correlations = [], []
    with torch.no_grad():
        for part in batch.split(250):
            original, regenerated = (t.float() for t in rr.reconstruct(part)[layers[0]])
            errors.append((original - regenerated).square().mean())
            left, right = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (original, regenerated))
            correlations.append(torch.nn.functional.cosine_similarity(left, right).mean())
    error = torch.stack(errors).mean() / batch.var()
    measured = {"error": float(error), "correlation": float(torch.stack(correlations).mean())}
    return {k: round(v, 5) if v == v and abs(v) < 1e30 else 1e30 for k, v in measured.items()}
