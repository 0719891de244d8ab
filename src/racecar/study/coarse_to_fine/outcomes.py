"""What a network's features are worth for task B: probes, neighbours, few labels, ranks, usable information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from racecar import analysis
from racecar.study.classification.batches import InMemory
from racecar.study.coarse_to_fine.networks import Classifier, features

VERSION = 2  # of what is measured; runs that an older one has measured are measured again from their weights
FEW = (1, 5, 10, 50)  # labels per class
DRAWS = 5  # of few labels, averaged
NEIGHBOURS = 20


@dataclass(frozen=True)
class Outcomes:
    """Of one network.

    Attributes:
        numbers: by name, for run.json.
        answers: which test images a probe gets right, [images] of bool by the probe's name.
    """

    numbers: dict[str, Any]
    answers: dict[str, Tensor]


@dataclass(frozen=True)
class _Features:
    train: Tensor
    test: Tensor
    cells: tuple[Tensor, Tensor] | None


def _features(model: Classifier, data: InMemory, before: str | None) -> _Features:
    parts: list[tuple[Tensor, Tensor | None]] = []
    for images in (data.train, data.test):
        found = []
        for start in range(0, len(images), 1000):
            batch = data.normalisation(images.pixels[start : start + 1000], channels_last=data.channels_last)
            found.append(features(model, batch, before))
        cells = None if found[0][1] is None else torch.cat([c for _, c in found if c is not None])
        parts.append((torch.cat([f for f, _ in found]), cells))
    (train, train_cells), (test, test_cells) = parts
    return _Features(train, test, None if train_cells is None or test_cells is None else (train_cells, test_cells))


def measure(model: Classifier, data: InMemory, before: str | None, seed: int) -> Outcomes:
    """All of them.

    Args:
        model: after phase I.
        data: of task B, with fine labels.
        before: see :class:`racecar.study.coarse_to_fine.networks.Shape`.
        seed: of the draws of few labels, the same for all methods.
    """
    known = _features(model, data, before)
    labels, wanted, classes = data.train.labels, data.test.labels, len(data.train.classes)
    probe = _probe(known.train, labels, classes)
    answers = {"probe": probe.answers(known.test, wanted)}
    numbers: dict[str, Any] = {
        "measured": VERSION,
        "probe": _share(answers["probe"]),
        "probe_l2": probe.l2,
        "probe_fixed": analysis.fit_probe(known.train, labels, classes).accuracy(known.test, wanted),
        "information": analysis.usable_information(probe, known.test, wanted),
        "knn": analysis.knn_accuracy(known.train, labels, known.test, wanted, NEIGHBOURS),
        "effective_rank": analysis.effective_rank(known.test),
        "dead_units": analysis.dead_units(known.test),
    }
    spectrum = analysis.weight_spectrum(model.body)
    numbers["condition"] = {
        name: round(float(values[0] / values[-1].clamp(min=1e-12)), 3) for name, values in spectrum.items()
    }
    for per_class in FEW:
        right = _few(known.train, labels, known.test, wanted, classes, per_class, seed)
        if right is not None:
            numbers[f"probe{per_class}"] = _share(right)
            answers[f"probe{per_class}"] = right
    if known.cells is not None:
        train, test = known.cells
        cells = _probe(train, labels, classes)
        answers["cells"] = cells.answers(test, wanted)
        numbers["cells"] = _share(answers["cells"])
        right = _few(train, labels, test, wanted, classes, 10, seed)
        if right is not None:
            numbers["cells10"], answers["cells10"] = _share(right), right
    return Outcomes(numbers, answers)


def _probe(train: Tensor, labels: Tensor, classes: int) -> analysis.LinearProbe:
    """A probe on all labels, its l2 chosen on a held-out tenth of the training images."""
    return analysis.fit_probe(train, labels, classes, l2=analysis.choose_l2(train, labels, classes))


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _few(
    train: Tensor, labels: Tensor, test: Tensor, wanted: Tensor, classes: int, per_class: int, seed: int
) -> Tensor | None:
    """How often each test image is answered right by probes on a few labels, over :data:`DRAWS` draws."""
    if int(labels.bincount(minlength=classes).min()) < per_class:
        return None
    found = []
    for draw in range(DRAWS):
        chosen = analysis.few_labels(labels, per_class, 1000 * seed + draw)
        probe = analysis.fit_probe(train[chosen], labels[chosen], classes)
        found.append(probe.answers(test, wanted).double())
    return torch.stack(found).mean(0)
