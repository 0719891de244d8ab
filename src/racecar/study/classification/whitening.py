"""The whitened racecar loss: the input and the regenerated input compared in directions of equal variance.

Eq. 1 counts every direction of the input by its variance, so that what varies little is regenerated last, if at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 0.01  # of the mean variance: directions with less are not raised to the others


@torch.no_grad()
def whitening(inputs: Tensor, floor: float = FLOOR) -> Tensor:
    """The symmetric matrix W [D, D] with W² = (C + floor · mean(diag C) · 1)⁻¹, C the covariance of the inputs.

    Args:
        inputs: [N, …], D values each, N ≥ 2.
        floor: see there.
    """
    covariance = inputs.flatten(1).double().T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + floor * covariance.diagonal().mean()
    return ((vectors * values.rsqrt()) @ vectors.T).to(inputs.dtype)


def whitened_distance(seen: Tensor, regenerated: Tensor, metric: Tensor) -> Tensor:
    """½‖(I − I')W‖² per element, a scalar.

    Args:
        seen, regenerated: I and I', [N, …].
        metric: W, see :func:`whitening`.
    """
    difference = (seen - regenerated).flatten(1).to(metric.dtype)
    return 0.5 * (difference @ metric).square().mean()
