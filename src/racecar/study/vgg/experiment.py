"""The VGG19 study: ImageNet as in Table 15, and the same two networks on images that a small machine can learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from racecar.study.classification.batches import Data, Normalisation
from racecar.study.classification.experiment import ClassificationConfig, Experiment, Task
from racecar.study.classification.recipe import Recipe
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.variants import START, Run
from racecar.study.images.crops import Crops
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation
from racecar.study.vgg import network, photographs
from racecar.study.vgg.photographs import Photographs

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # also where other images are learnt
HUB, CIFAR10 = "ILSVRC/imagenet-1k", "uoft-cs/cifar10"
TRAIN = 1_281_167  # images of ImageNet-1k
MANY = 100  # classes from which on top-5 is what tables show


@dataclass(frozen=True)
class VggConfig(ClassificationConfig):
    """What can be chosen in the VGG19 study: see the base class, and

    Attributes:
        start: recipe of the plain model that all variants begin with.
        streamed: photographs are decoded and cropped while the network trains; else all images are held in memory.
        size: pixels of a side that the network sees.
        crop: a training crop's share of the photograph's area, from and to; only where streamed.
        pool: side of the maps that the fully connected layers see, 7 in VGG19.
        dropout: after both hidden layers.
        decoders: processes that decode photographs, per training process.
    """

    WAYS: ClassVar[tuple[str, ...]] = ("start",)

    phases: list[str] = field(default_factory=lambda: [START, "A", "AA"])
    start: Recipe = field(default_factory=Recipe)
    streamed: bool = True
    size: int = 224
    crop: list[float] = field(default_factory=lambda: [0.08, 1.0])
    pool: int = 7
    dropout: float = 0.5
    decoders: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 32:
            raise ValueError(f"size must be at least 32, not {self.size}: VGG19 halves it five times")
        if len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares between 0 and 1, smaller first, not {self.crop}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.pool < 1 or self.decoders < 0:
            raise ValueError("pool must be at least 1 and decoders at least 0")
        if other := [p for p in self.phases if p not in (START, "A", "AA")]:
            raise ValueError(f"no phase {other[0]!r} in this study: use {START}, A and AA")

    def recipe(self, run: Run) -> Recipe:
        """The hyper-parameters of a run."""
        return self.start if run.phase == START else super().recipe(run)

    @property
    def crops(self) -> Crops:
        """How photographs are cut."""
        return Crops(self.size, (self.crop[0], self.crop[1]))


class Vgg(Experiment):
    """VGG19 on ImageNet, or on any images that :mod:`datasets` reads."""

    name = "vgg"
    title = "VGG19"
    head = network.HEAD
    config = VggConfig
    regenerated = 100
    together = True

    def load(
        self, source: str, config: ClassificationConfig, file: Path | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The one task, from the hub or any local set."""
        assert isinstance(config, VggConfig)
        if source == "hub":
            source = HUB if config.streamed else CIFAR10
        where = f"local files ({Path(source).name})" if Path(source).exists() else f"the hub ({source})"
        if config.streamed:
            loaded = photographs.load(source, config.crops, IMAGENET, workers=config.decoders)
            words = f"{len(loaded.classes)} classes of photographs from {where}, decoded while training"
            return {"A": loaded}, {"A": words}
        train, test = train_and_validation(source, channels=3, size=config.size)
        return {"A": Task(train, test)}, {"A": f"{len(train.classes)} classes of images from {where}"}

    def subsets(
        self, tasks: dict[str, Any], words: dict[str, str], config: ClassificationConfig
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The share of photographs that the configuration asks for, and words that say so."""
        if isinstance(images := tasks["A"], Photographs):
            images = images.limited(config.train_images, config.test_images)
            counts = f"used here: {images.train_count} training and {images.test_count} test images"
            return {"A": images}, {"A": f"{words['A']}; {counts}"}
        return super().subsets(tasks, words, config)

    def keep(self, study: Study, tasks: dict[str, Any]) -> None:
        """Images in memory are kept; of photographs where they are, and some of the test set for the report."""
        images = tasks["A"]
        if not isinstance(images, Photographs):
            super().keep(study, tasks)
            return
        pixels, labels = images.test_pixels(self.regenerated)
        Images(pixels, labels, images.classes).write(study.folder / "data-A-test.safetensors")
        study.note(photographs=images.fingerprint(), classes=len(images.classes))

    def kept(self, study: Study, config: ClassificationConfig) -> dict[str, Any]:
        """What :meth:`keep` wrote; photographs are opened where the last call has found them.

        Raises:
            StudyError: they are not what the study began with.
        """
        assert isinstance(config, VggConfig)
        if not config.streamed:
            return super().kept(study, config)
        metadata = study.metadata()
        if "photographs" not in metadata:
            return {}
        found, _ = self.subsets(*self.load(metadata["data"], config, None), config)
        if found["A"].fingerprint() != metadata["photographs"]:
            raise StudyError(
                f"the photographs in {metadata['data']} are not those that {study.folder} began with: bring them back, "
                "or choose another --out"
            )
        return found

    def data(self, config: ClassificationConfig, run: Run, task: Any) -> Data:
        """Photographs as they are; images in memory as everywhere."""
        return task if isinstance(task, Photographs) else super().data(config, run, task)

    def normalisation_of(self, study: Study, config: ClassificationConfig) -> Normalisation:
        """The mean and deviation of ImageNet, for all images."""
        return IMAGENET

    def measure(self, config: ClassificationConfig, metadata: Mapping[str, Any]) -> Literal["accuracy", "top5"]:
        """The paper's top-5 where there are many classes."""
        return "top5" if metadata.get("classes", 0) >= MANY else "accuracy"

    def order(self, run: Run) -> int:
        """Every phase of a seed has other crops."""
        return 3 * run.seed + (START, "A", "AA").index(run.phase)

    def comparable(self, config: ClassificationConfig, metadata: Mapping[str, Any]) -> bool:
        """Only on all of ImageNet: the paper's numbers are top-5 accuracies there."""
        return metadata.get("photographs", [0])[0] == TRAIN

    def depth(self, config: ClassificationConfig) -> int:
        """All 16 convolutions of VGG19 can be compared."""
        return network.DEPTH

    def network(self, config: ClassificationConfig, channels: int, size: int, classes: int, seed: int) -> nn.Module:
        """VGG19 with He's weights."""
        assert isinstance(config, VggConfig)
        model = network.VGG19(classes, config.width, config.pool, config.dropout)
        network.initialise(model, seed)
        return model

    def input_range(self, config: ClassificationConfig) -> Any:
        """None: the images lie around zero, so the regenerated input stays as it is."""
        return None

    def normalisation(self, config: ClassificationConfig, task: Task) -> Normalisation:
        """ImageNet's, so that networks of all presets see photographs alike."""
        return IMAGENET
