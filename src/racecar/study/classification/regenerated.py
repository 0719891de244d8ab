"""What the report computes anew from kept weights: regenerated test images (Figure 5), work of a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import racecar
from racecar.study.classification.experiment import ClassificationConfig, Experiment
from racecar.study.classification.work import step_flops
from racecar.study.core.folder import Study
from racecar.study.core.variants import Run, Variant
from racecar.study.images.decoded import Images

BATCH = 100  # the reverse pass of nets with batch norm needs the statistics of a batch


@dataclass(frozen=True)
class Regenerated:
    """Test images and what the reverse pass makes of them.

    Attributes:
        reference: [n, C, H, W], between 0 and 1.
        pictures: per run, I' in the same unit, not clipped.
    """

    reference: Tensor
    pictures: dict[Run, Tensor]

    def range(self, run: Run) -> tuple[float, float]:
        """The lowest and the highest value of I'."""
        return float(self.pictures[run].min()), float(self.pictures[run].max())


def images_of_a(study: Study) -> Images:
    """The test images of task A, mapped from the study's folder.

    Raises:
        StudyError: they are not there.
    """
    return Images.read(study.folder / "data-A-test.safetensors")


def regenerate(study: Study, experiment: Experiment, config: ClassificationConfig, runs: Sequence[Run]) -> Regenerated:
    """Run the reverse pass of every run's kept weights over the first test image of every class.

    Raises:
        StudyError: data or weights are not there; RacecarError, RuntimeError: they do not fit the network.
    """
    images = images_of_a(study)
    channels, size, _ = images.shape
    pixels, labels = images.pixels[:BATCH], images.labels[:BATCH].tolist()
    shown = [labels.index(c) for c in range(len(images.classes)) if c in labels][:10]
    normalisation = experiment.normalisation_of(study, config)
    batch = normalisation(pixels)
    model = experiment.network(config, channels, size, len(images.classes), 0)
    rr = racecar.Racecar(model, batch[:2], input_range=experiment.input_range(config))
    scale, shift = (torch.tensor(v).view(1, -1, 1, 1) for v in (normalisation.std, normalisation.mean))
    pictures = {}
    model.train()  # with the statistics of the batch, as in training
    for run in runs:
        model.load_state_dict(study.weights(run))
        with torch.no_grad():
            _, regenerated = rr.reconstruct(batch)[rr.layers[0]]
        pictures[run] = regenerated[shown] * scale + shift
    return Regenerated(pixels[shown].float() / 255, pictures)


def step_work(
    study: Study, experiment: Experiment, config: ClassificationConfig, variants: Sequence[Variant]
) -> dict[str, float]:
    """Floating-point operations of a step of phase I, forward and backward, over those of Std, by variant.

    Convolutions and matrix products are counted, on the network of the study.

    Raises:
        StudyError: no data, which gives the size; RacecarError: a variant has no palindrome.
    """
    images = images_of_a(study)
    channels, size, _ = images.shape

    def network(seed: int) -> nn.Module:
        return experiment.network(config, channels, size, len(images.classes), seed)

    work = {}
    for variant in dict.fromkeys([Variant("Std"), *variants]):
        two = torch.rand(2, *images.shape)
        objective = experiment.objective(config, variant, network(0), two, lambda: network(1))
        work[variant.name] = step_flops(objective, images.shape, config.a.batch_size)
    return {name: flops / work["Std"] for name, flops in work.items()}
