"""Ort: the orthogonality regulariser SRIP (Eq. 2; Bansal et al. 2018), the paper's baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from racecar.errors import ArgumentError


def spectral_distance(matrix: Tensor, start: Tensor, *, iterations: int = 2) -> Tensor:
    """σ(WᵀW − I), estimated by power iteration: a lower bound that grows with ``iterations``.

    WᵀW is never formed: a step costs two products with W. Several matrices can be padded with zeros to one size and
    stacked; where ``start`` is zero in the padding too, each result is that of the matrix alone.

    Args:
        matrix: (…, out, in).
        start: (…, in), the vector to start from, e.g. random.
        iterations: applications of WᵀW − I before the last; Bansal et al. use 2.

    Returns:
        (…), differentiable with respect to ``matrix``.
    """
    vector = start.unsqueeze(-1)
    for _ in range(iterations):
        vector = nn.functional.normalize(_apply(matrix, vector), dim=-2, eps=1e-12)
    return _apply(matrix, vector).norm(dim=(-2, -1)) / vector.norm(dim=(-2, -1)).clamp_min(1e-12)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """(WᵀW − I) v."""
    return matrix.mT @ (matrix @ vector) - vector


def srip(
    model: nn.Module, *, squared: bool = False, iterations: int = 2, generator: torch.Generator | None = None
) -> Tensor:
    """Σ over all weight matrices and kernels of σ(WᵀW − I): multiply by β and add it to the loss (Eq. 2).

    Args:
        model: its parameters with two or more dimensions are regularised.
        squared: σ² instead of σ, as in the code of Bansal et al. and of the racecar authors.
        iterations: of the power method.
        generator: for the start vectors; None takes the global one.

    Returns:
        A scalar.

    Raises:
        ArgumentError: the model has no weight matrix.

    Example:
        >>> import torch, racecar
        >>> penalty = 1e-2 * racecar.srip(torch.nn.Linear(4, 4))
    """
    terms = []
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            matrix = parameter.flatten(1)
            start = torch.randn(matrix.shape[1], dtype=matrix.dtype, device=matrix.device, generator=generator)
            terms.append(spectral_distance(matrix, start, iterations=iterations))
    if not terms:
        raise ArgumentError("srip: the model has no parameter with two or more dimensions")
    total = torch.stack(terms)
    return (total.square() if squared else total).sum()
