"""Whether a classifier is as often right as it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from racecar.analysis.features import matrix


@dataclass(frozen=True)
class Calibration:
    """Answers in bins of equal width by their confidence, from 0 to 1.

    Attributes:
        counts: answers per bin.
        confidence: their mean confidence; NaN in an empty bin.
        accuracy: the share of them that is right; NaN in an empty bin.
        error: the expected calibration error ``Σ_b (n_b / N) |accuracy_b − confidence_b|`` (Naeini et al. 2015).
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    error: float


def calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Of logits [N, classes] and labels [N]; confidence is the largest softmax probability.

    Raises ValueError for logits that are no finite matrix, another number of labels, or fewer than one bin.
    """
    logits = matrix(logits, "logits").double()
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"{len(labels)} labels for {len(logits)} answers")
    if bins < 1:
        raise ValueError(f"bins is {bins}; use 1 or more")
    confidence, answers = logits.softmax(1).max(1)
    right = (answers == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    counts = place.bincount(minlength=bins)
    sums = (
        torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, place, v)
        for v in (confidence, right)
    )
    said, found = (s / counts for s in sums)
    error = float((counts * (said - found).abs()).nansum() / len(labels))
    return Calibration(tuple(counts.tolist()), tuple(said.tolist()), tuple(found.tolist()), error)
