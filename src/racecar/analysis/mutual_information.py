"""Mutual information of binned layers: the information plane of Shwartz-Ziv & Tishby (2017).

Here: from activations to bins, from bins to exact pattern ids, from ids to entropies in bits. Every function
is vectorised over leading dimensions (members, snapshots); training and plotting belong elsewhere.
"""

import math

import torch
from torch import Tensor

_INT64_MAX = torch.iinfo(torch.int64).max


def bin_activations(activations: Tensor, *, bins: int = 30, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return the bin of every value among `bins` equal bins on [low, high], each closed below.

    `activations` is a float tensor of any shape; the int64 result in 0..bins-1 has the same shape. Values
    outside [low, high], infinities too, go to the edge bins, and `high` itself to the last one.

    Raises ValueError for a NaN, a dtype that is not real floating point, bins < 1 or not finite low < high.
    """
    if not activations.is_floating_point():
        raise ValueError(f"activations have dtype {activations.dtype}; pass a real floating point tensor")
    if bins < 1:
        raise ValueError(f"bins is {bins}; use at least 1")
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"low is {low} and high is {high}; use finite values with low < high")
    nan = activations.isnan()
    if nan.any():
        where = nan.nonzero()[0].tolist()
        raise ValueError(
            f"activations hold {int(nan.sum())} NaN, the first at index {where}; drop that member or sample"
        )
    # Inner edges only, so that what lies outside falls into the edge bins; float64, because a float32 value
    # is exact there and is compared with the edge itself, not with its float32 rounding.
    step = torch.arange(1, bins, dtype=torch.float64, device=activations.device)
    edges = low + (high - low) * step / bins
    return torch.bucketize(activations.detach().double().contiguous(), edges, right=True)


def pattern_ids(codes: Tensor) -> Tensor:
    """Return an id for each row of units: two samples share an id exactly when all their codes agree.

    `codes` is an integer tensor [..., samples, units]; the int64 result is [..., samples]. Ids are exact for
    any number of units and any values, but not dense, and only those of one leading index compare.

    Raises ValueError for a dtype that is not integer, fewer than 2 dimensions or an empty tensor.
    """
    codes = _integers(codes, "codes", min_dims=2)
    samples, units = codes.shape[-2:]
    lows, highs = (extreme.tolist() for extreme in codes.reshape(-1, units).aminmax(dim=0))
    # A mixed radix number: ids stay in 0..span-1, and digits in 0..base-1. Where the product would leave
    # int64, ranks take the place of the numbers, of which there are at most `samples`.
    ids, span = torch.zeros_like(codes[..., 0]), 1
    for unit, (low, high) in enumerate(zip(lows, highs, strict=True)):
        digit, base = codes[..., unit], high - low + 1
        if base > _INT64_MAX // samples:
            digit, base = _ranks(digit), samples
        else:
            digit = digit - low
        if span > _INT64_MAX // base:
            ids, span = _ranks(ids), samples
        ids, span = ids * base + digit, span * base
    return ids


def entropy(ids: Tensor) -> Tensor:
    """Return the entropy in bits of integer ids [..., samples] over the last dimension, as float64 [...].

    Each sample is equally likely, so this is the entropy of the empirical distribution, without a correction.

    Raises ValueError for a dtype that is not integer, no dimension or an empty tensor.
    """
    ids = _integers(ids, "ids", min_dims=1)
    samples = ids.shape[-1]
    ordered = ids.sort(dim=-1).values
    first = torch.ones_like(ordered, dtype=torch.bool)  # where a run of equal ids starts
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    starts = first.flatten().nonzero().squeeze(1)
    # Each block of samples starts a run, so a run never crosses into the next block.
    counts = starts.diff(append=starts.new_tensor([ids.numel()])).double()
    # Terms lie where their run starts, and plain sums do the rest: no atomic adds, so always the same bits.
    terms = torch.zeros(ids.numel(), dtype=torch.float64, device=ids.device)
    # A tensor, since torch divides a Python number by reciprocals: n / n = 1 makes a constant exactly 0 bits.
    total = counts.new_tensor(samples)
    terms[starts] = counts / total * torch.log2(total / counts)
    return terms.reshape(ids.shape).sum(dim=-1)


def mutual_information(a_ids: Tensor, b_ids: Tensor) -> Tensor:
    """Return I(a; b) = H(a) + H(b) - H(a, b) in bits, as float64.

    Both are integer ids [..., samples]; their leading dimensions broadcast and give the result's shape.

    Raises ValueError for a dtype that is not integer, an empty tensor, different sample counts or leading
    dimensions that do not broadcast.
    """
    a_ids = _integers(a_ids, "a_ids", min_dims=1)
    b_ids = _integers(b_ids, "b_ids", min_dims=1)
    joint = _joint_entropy(a_ids, b_ids)
    return _from_entropies(entropy(a_ids), entropy(b_ids), joint)


def information_plane(
    activations: Tensor,
    labels: Tensor,
    *,
    x_ids: Tensor | None = None,
    bins: int = 30,
    low: float = -1.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return (I(X;L), I(L;Y)) in bits, float64 [...], of binned activations [..., samples, units].

    `labels` are integers [samples]. The layer is a deterministic function of the input, so H(L|X) = 0, and
    with all inputs distinct and equally likely I(X;L) = H(L): that is what `x_ids=None` computes. If inputs
    repeat or the layer is noisy, pass their ids `x_ids` [..., samples] and I(X;L) is I(x_ids; L).

    Raises ValueError as `bin_activations` does, and for wrong shapes, dtypes or sample counts.
    """
    if activations.ndim < 2:
        raise ValueError(f"activations have shape {tuple(activations.shape)}; pass [..., samples, units]")
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; pass [samples], one label a sample")
    labels = _integers(labels, "labels", min_dims=1)
    samples = {"activations": activations.shape[-2], "labels": labels.shape[0]}
    if x_ids is not None:
        x_ids = _integers(x_ids, "x_ids", min_dims=1)
        samples["x_ids"] = x_ids.shape[-1]
    if len(set(samples.values())) > 1:
        raise ValueError(f"sample counts differ: {samples}; pass the same samples to all")

    layer = pattern_ids(bin_activations(activations, bins=bins, low=low, high=high))
    h_layer = entropy(layer)
    about_labels = _from_entropies(h_layer, entropy(labels), _joint_entropy(layer, labels))
    if x_ids is None:
        return h_layer, about_labels
    return _from_entropies(h_layer, entropy(x_ids), _joint_entropy(layer, x_ids)), about_labels


def _joint_entropy(a_ids: Tensor, b_ids: Tensor) -> Tensor:
    shapes = tuple(a_ids.shape), tuple(b_ids.shape)
    if shapes[0][-1] != shapes[1][-1]:  # said here, since one sample would broadcast
        raise ValueError(f"ids have {shapes[0][-1]} and {shapes[1][-1]} samples; pass ids of the same samples")
    try:
        pair = torch.stack(torch.broadcast_tensors(a_ids, b_ids), dim=-1)
    except RuntimeError as error:
        raise ValueError(
            f"ids of shapes {shapes[0]} and {shapes[1]} do not broadcast; make their leading dimensions agree"
        ) from error
    return entropy(pattern_ids(pair))


def _from_entropies(h_a: Tensor, h_b: Tensor, h_joint: Tensor) -> Tensor:
    # Never negative but for rounding, some 1e-15 bits.
    return (h_a + h_b - h_joint).clamp(min=0.0)


def _ranks(ids: Tensor) -> Tensor:
    """Return, within each block of samples, the rank of each id among the distinct ones."""
    ordered, order = ids.sort(dim=-1)
    ranks = torch.zeros_like(ordered)
    ranks[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).cumsum(dim=-1)
    return torch.empty_like(ranks).scatter_(-1, order, ranks)


def _integers(tensor: Tensor, name: str, *, min_dims: int) -> Tensor:
    """Return the tensor as int64, or say what is wrong with it."""
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name} has dtype {tensor.dtype}; pass integers, e.g. from bin_activations")
    if tensor.ndim < min_dims or tensor.numel() == 0:
        wanted = ["[..., samples]", "[..., samples, units]"][min_dims - 1]
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; pass a non-empty {wanted}")
    return tensor.long()
