"""Is an input unlike those a network was trained on? Scores, higher for what is unlike, and how well they tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from racecar.analysis.features import matrix
from racecar.module import Racecar


@torch.no_grad()
def layer_errors(rr: Racecar, *args: Any, **kwargs: Any) -> Tensor:
    """Return ½(L_m − L'_m)², averaged over a sample's units: [N, n] for n compared layers, in float32.

    Units that are not known (NaN in L'_m) take no part, as in the penalty.

    Batch norm in the reverse pass takes the statistics of the batch, in evaluation mode too: there an error is that of
    a sample among the others, so compare errors of batches that are mixed alike. Without batch norm each stands alone.

    Raises ValueError where a compared value has another first dimension than the others.
    """
    return pair_errors(rr.reconstruct(*args, **kwargs))


def pair_errors(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Return the same of what :meth:`racecar.Racecar.reconstruct` has found.

    Raises ValueError where a compared value has another first dimension than the others.
    """
    errors = [0.5 * (x.float() - y.float()).square().flatten(1).nanmean(1) for x, y in pairs.values()]
    if len({len(e) for e in errors}) > 1:
        raise ValueError(f"the compared values have first dimensions {[len(e) for e in errors]}, not one per sample")
    return torch.stack(errors, 1)


def energy(logits: Tensor) -> Tensor:
    """Return −log Σ_c exp(logit_c) of logits [N, classes] (Liu et al. 2020): [N].

    Raises ValueError for anything but finite floating point [N, classes].
    """
    return -torch.logsumexp(matrix(logits, "logits"), 1)


@dataclass(frozen=True)
class Mahalanobis:
    """Squared distances to the nearest class mean under one covariance for all classes (Lee et al. 2018).

    Attributes:
        means: [classes, D], in float64.
        precision: the inverse of the covariance [D, D].
    """

    means: Tensor
    precision: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, ridge: float = 1e-3) -> Mahalanobis:
        """Of features [N, D] with labels [N] from 0 to classes − 1.

        Args:
            features, labels, classes: as said.
            ridge: added to the covariance, as a share of its mean variance.

        Raises:
            ValueError: features that are no finite matrix, or a class without a sample.
        """
        x = matrix(features, "features").double()
        counts = labels.bincount(minlength=classes)
        if len(counts) != classes or int(counts.min()) == 0:
            raise ValueError(f"classes {(counts == 0).nonzero()[:, 0].tolist()} of {classes} have no sample")
        means = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
        means = means / counts[:, None]
        centred = x - means[labels]
        covariance = centred.T @ centred / len(x)
        covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp(min=1e-12))
        return cls(means, torch.linalg.inv(covariance))

    def __call__(self, features: Tensor) -> Tensor:
        """Return [N] for features [N, D]."""
        differences = matrix(features, "features").double()[:, None] - self.means
        return torch.einsum("ncd,de,nce->nc", differences, self.precision, differences).amin(1)


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return the probability that a score [n] of what is unknown is above one [m] of what is known; ties count half.

    Raises ValueError for scores that are empty or NaN.
    """
    if not known.numel() or not unknown.numel() or known.isnan().any() or unknown.isnan().any():
        raise ValueError("scores are empty or NaN")
    _, inverse, counts = torch.cat([known, unknown]).unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts - 1) / 2  # of tied scores their mean
    above = float(ranks[inverse[known.numel() :]].sum()) - unknown.numel() * (unknown.numel() + 1) / 2
    return above / (known.numel() * unknown.numel())
