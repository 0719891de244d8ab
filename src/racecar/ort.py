"""Ort: the orthogonality regulariser SRIP (Eq. 2; Bansal et al. 2018), the paper's baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from racecar.errors import ArgumentError


def spectral_distance(weight: Tensor, *, iterations: int = 2, start: Tensor | None = None) -> Tensor:
    """σ(WᵀW − I), estimated by power iteration (a lower bound that grows with ``iterations``).

    Args:
        weight: (out, …): a kernel is reshaped as out × (in·k·k).
        iterations: applications of WᵀW − I before the last; Bansal et al. use 2.
        start: (in·k·k) vector to start from; random if None.

    Returns:
        A scalar. The matrix WᵀW is never formed: a step costs two products with W.
    """
    matrix = weight.reshape(weight.shape[0], -1)
    if start is None:
        start = torch.randn(matrix.shape[1], dtype=weight.dtype, device=weight.device)
    vector = nn.functional.normalize(start, dim=0, eps=1e-12)
    for _ in range(iterations):
        vector = nn.functional.normalize(_apply(matrix, vector), dim=0, eps=1e-12)
    return _apply(matrix, vector).norm()


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
            size = parameter[0].numel()
            start = torch.randn(size, dtype=parameter.dtype, device=parameter.device, generator=generator)
            terms.append(spectral_distance(parameter, iterations=iterations, start=start))
    if not terms:
        raise ArgumentError("srip: the model has no parameter with two or more dimensions")
    total = torch.stack(terms)
    return (total.square() if squared else total).sum()
