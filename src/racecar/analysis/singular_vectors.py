"""What a layer's singular vectors have in common with the directions in which its data vary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from racecar.analysis.features import matrix


def principal_directions(data: Tensor, count: int, *, centred: bool = True) -> Tensor:
    """Return the `count` directions of largest variance of data [N, D], as orthonormal columns [D, count], float64.

    `centred=False` takes the directions of largest second moment: of two images, their span.

    Raises ValueError for data that are not a finite, real [N, D], and for more directions than the data have.
    """
    data = matrix(data, "data", samples=2).double()
    data = data - data.mean(0) if centred else data
    _, values, directions = torch.linalg.svd(data, full_matrices=False)
    found = int((values > 1e-7 * values[0].clamp(min=1e-300)).sum())
    if not 1 <= count <= found:
        raise ValueError(f"count is {count}; the data vary in {found} directions")
    return directions[:count].T.contiguous()


def right_singular_vectors(weight: Tensor, count: int) -> Tensor:
    """Return the first `count` right singular vectors of a weight [out, in, …], columns [in·…, count], float64.

    They are the inputs that the layer answers most strongly. Kernels are flattened to [out, in·k].

    Raises ValueError for a weight of fewer than two dimensions, and for more vectors than it has.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; pass [out, in, …]")
    flat = matrix(weight.flatten(1), "weight").double()
    if not 1 <= count <= min(flat.shape):
        raise ValueError(f"count is {count}; the weight has {min(flat.shape)} singular vectors")
    return torch.linalg.svd(flat, full_matrices=False).Vh[:count].T.contiguous()


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Return the principal angles in degrees, ascending, between the spans of columns [D, p] and [D, q].

    There are min(p, q) of them (Björck & Golub 1973): all 0 where one span holds the other, 90 for a direction that
    is orthogonal to the other span. Small angles are taken from their sines, so that rounding does not hide them.

    Raises ValueError for columns that are not finite and real, of equal D, or not independent.
    """
    a, b = matrix(a, "a").double(), matrix(b, "b").double()
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"a has {a.shape[0]} rows and b {b.shape[0]}; pass columns of one space")
    bases = []
    for name, columns in (("a", a), ("b", b)):
        vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
        if columns.shape[1] > columns.shape[0] or float(values[-1]) <= 1e-10 * float(values[0]):
            raise ValueError(f"the columns of {name} are not independent; pass a basis")
        bases.append(vectors)
    first, second = sorted(bases, key=lambda v: -v.shape[1])
    cosines = torch.linalg.svdvals(first.T @ second).clamp(max=1)
    sines = torch.linalg.svdvals(second - first @ (first.T @ second)).clamp(max=1).flip(0)
    angles = torch.where(cosines > math.sqrt(0.5), sines.asin(), cosines.acos())
    return torch.rad2deg(angles)
