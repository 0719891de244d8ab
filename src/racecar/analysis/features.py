"""How much of its room a representation uses: effective rank, units that say nothing, spectra of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList


def effective_rank(features: Tensor) -> float:
    """Return exp(H(p)), the effective rank of Roy & Vetterli (2007), of features [N, D] less their mean.

    p_i = σ_i / Σ_j σ_j with the singular values σ of the matrix after each column's mean is taken away (σ as
    they are, not squared), and H in nats. So D equally strong directions give D, one gives 1, and features that are
    the same for every sample give 0. Computed in float64; singular values below 1e-7 of the largest count as 0.

    Raises ValueError for anything but a real floating point [N, D] with N ≥ 2, D ≥ 1 and finite values.
    """
    features = matrix(features, "features", samples=2).double()
    centred = features - features.mean(dim=0)
    # A column that is constant is 0, and not what rounding its mean has left.
    centred = torch.where(features.amax(dim=0) > features.amin(dim=0), centred, 0.0)
    squares = torch.linalg.eigvalsh(centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred)
    largest = squares[-1]
    if not largest > 0:
        return 0.0
    values = torch.where(squares > 1e-14 * largest, squares, 0.0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def dead_units(features: Tensor, tolerance: float = 0.0) -> float:
    """Return the share, 0 to 1, of units of features [N, D] that are constant over all samples.

    Constant is what has max − min ≤ `tolerance`: a ReLU that never fires, a saturated tanh.

    Raises ValueError as `effective_rank` does, and for a negative tolerance.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; use 0 or more")
    features = matrix(features, "features", samples=2)
    low, high = features.aminmax(dim=0)
    return float((high.double() - low.double() <= tolerance).double().mean())


def weight_spectrum(module: nn.Module) -> dict[str, Tensor]:
    """Return the singular values, descending, float64, of each weight matrix, by the parameter's name.

    Matrices are all parameters of two dimensions and the kernels of convolutions, flattened to [out, in·k], with
    `in` the channels of one group; those of transposed convolutions as well. A parametrised weight counts as what
    the module computes with, under the name it has there. What has another number of dimensions (biases, position
    embeddings) is left out; a weight that is shared is listed once.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, part in module.named_modules():
        if isinstance(part, ParametrizationList):
            continue
        names = [n for n, p in part._parameters.items() if p is not None and id(p) not in seen]
        seen |= {id(part._parameters[n]) for n in names}
        if isinstance(lists := getattr(part, "parametrizations", None), nn.ModuleDict):
            names += lists.keys()
        for name in names:
            weight = getattr(part, name).detach()
            if isinstance(part, _ConvTransposeNd) and weight.ndim > 2:  # [in, out / groups, *k]
                weight = weight.unflatten(0, (part.groups, -1)).transpose(1, 2).flatten(0, 1)
            if weight.ndim == 2 or (isinstance(part, _ConvNd) and weight.ndim > 2):
                found[f"{path}.{name}" if path else name] = torch.linalg.svdvals(weight.double().flatten(1))
    return found


def matrix(features: Tensor, name: str, samples: int = 1) -> Tensor:
    """Return features [N, D] without a graph, or raise ValueError that says what is wrong with them."""
    if not features.is_floating_point():
        raise ValueError(f"{name} have dtype {features.dtype}; pass a real floating point tensor")
    if features.ndim != 2 or features.shape[0] < samples or features.shape[1] < 1:
        raise ValueError(
            f"{name} have shape {tuple(features.shape)}; pass [N, D] with N ≥ {samples} and D ≥ 1, e.g. flatten(1)"
        )
    features = features.detach()
    if not (finite := features.isfinite()).all():
        where = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} hold {int((~finite).sum())} NaN or infinite values, the first at index {where}")
    return features
