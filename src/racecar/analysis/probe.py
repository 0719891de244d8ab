"""What a frozen representation [N, D] knows of labels: linear probe, nearest neighbours, usable information.

Everything is deterministic and does without a graph; a probe lives where the features do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from racecar.analysis.features import matrix
from racecar.analysis.mutual_information import entropy

L2 = 1e-3
L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Largest entry of the gradient, in coordinates in which the curvature is at most about 1. Few samples can be told apart
# without error, where the optimum is flat and takes float64; many in float32 are as exact, and three times as fast.
_CONVERGED = {torch.float64: 1e-6, torch.float32: 1e-5}
_FEW = 2**21  # numbers in the features
_REFUSED = 1e-3


@dataclass(frozen=True)
class LinearProbe:
    """A multinomial logistic regression on standardised features.

    Attributes:
        weight: [classes, D].
        bias: [classes].
        mean: [D], of the training features.
        scale: [D], 1 / standard deviation of the training features; 0 for one that was constant.
        l2: what it was trained with.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    l2: float

    def logits(self, features: Tensor) -> Tensor:
        """Return float32 logits [N, classes] of features [N, D].

        Raises ValueError for features that are not a finite, real [N, D] with the probe's D.
        """
        features = matrix(features, "features")
        if features.shape[1] != len(self.mean):
            raise ValueError(f"features have {features.shape[1]} units, the probe was trained on {len(self.mean)}")
        return torch.addmm(self.bias, (features.float() - self.mean) * self.scale, self.weight.T)

    def predict(self, features: Tensor) -> Tensor:
        """Return the most likely class, int64 [N]."""
        return self.logits(features).argmax(dim=1)

    def answers(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return which samples it gets right, bool [N]: what inference over test items resamples."""
        labels = _labels(labels, len(features), len(self.bias))
        return self.predict(features) == labels

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of samples it gets right."""
        return float(self.answers(features, labels).double().mean())


def fit_probe(features: Tensor, labels: Tensor, classes: int, *, l2: float = L2, steps: int = 1000) -> LinearProbe:
    """Return the probe that minimises mean cross entropy + l2/2 · ‖weight‖² on features [N, D] and labels [N].

    Features are standardised by their own mean and deviation, and a constant one becomes 0. The bias is free. With
    scikit-learn's C this is l2 = 1 / (C·N); the default 1e-3 suits both a hundred and many thousand labels, and
    `choose_l2` chooses. The problem is convex: full-batch L-BFGS runs until no entry of the gradient is above 1e-6, or
    1e-5 in float32 where features hold more than two million numbers. It works in the features' principal axes, scaled
    by a bound of the curvature, where few steps suffice.

    Raises ValueError for features that are not a finite, real [N, D], labels that are not integers [N] in
    0..classes-1, classes < 2, l2 ≤ 0 or steps < 1; RuntimeError if `steps` are too few.
    """
    return _fit(*_data(features, labels, classes), classes, (l2,), steps)[0]


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, *, grid: Sequence[float] = L2_GRID, seed: int = 0
) -> float:
    """Return the l2 of a grid whose probe has the least cross entropy on a held-out tenth of the samples.

    The tenth is drawn by `seed`; the larger of two equal l2 wins. It costs about one `fit_probe` for each of the grid.
    With a hundred labels a tenth is ten, and says little: then fix l2 instead.

    Raises ValueError as `fit_probe` does, for fewer than 10 samples, and for an empty grid.
    """
    features, labels = _data(features, labels, classes)
    held = len(labels) // 10
    if not held or not grid:
        raise ValueError(f"{len(labels)} samples and {len(grid)} values of l2; pass at least 10 and 1")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    probes = _fit(features[order[held:]], labels[order[held:]], classes, sorted(grid, reverse=True), 1000)
    losses = [_cross_entropy(p, features[order[:held]], labels[order[:held]]) for p in probes]
    return probes[losses.index(min(losses))].l2


def usable_information(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    """Return H(Y) minus the probe's cross entropy in bits, of held-out features [N, D] and labels [N].

    This is the predictive V-information of Xu et al. (2020) with the linear classifiers as V, as the fixed probe
    bounds it from below. H(Y) is the entropy of the labels' frequencies among these samples. A probe that is worse
    than those frequencies has less than none: the result may be negative.

    Raises ValueError as `LinearProbe.answers` does.
    """
    labels = _labels(labels, len(features), len(probe.bias))
    return float(entropy(labels)) - _cross_entropy(probe, features, labels) / math.log(2)


def few_labels(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return ascending indices of `per_class` samples of every class in labels [N], drawn by `seed`.

    Draws of one seed are nested: five per class are among the ten per class.

    Raises ValueError for labels that are not integers [N], per_class < 1, or a class with fewer samples.
    """
    labels = _labels(labels, None, None)
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; use at least 1")
    counts = labels.bincount()
    short = [(c, n) for c, n in enumerate(counts.tolist()) if 0 < n < per_class]
    if short:
        raise ValueError(f"class {short[0][0]} has {short[0][1]} samples, fewer than per_class = {per_class}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    starts = (counts.cumsum(0) - counts)[counts > 0]
    return by_class[(starts[:, None] + torch.arange(per_class, device=labels.device)).flatten()].sort().values


def knn_predict(train: Tensor, labels: Tensor, test: Tensor, k: int = 20) -> Tensor:
    """Return for test [M, D] the class, int64 [M], most frequent among the k training samples of highest cosine.

    `train` is [N, D] with labels [N]; of classes that are equally frequent, the lowest. A vector of zeros has cosine 0
    to all. Nothing is centred or standardised.

    Raises ValueError for features that are not finite, real and of equal D, labels that are not integers [N], or k
    outside 1..N.
    """
    train, test = matrix(train, "train").float(), matrix(test, "test").float()
    labels = _labels(labels, len(train), None)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train has {train.shape[1]} units and test {test.shape[1]}; pass the same features")
    if not 1 <= k <= len(train):
        raise ValueError(f"k is {k}; use 1 to {len(train)}, the number of training samples")
    train, test = (torch.nn.functional.normalize(f, dim=1) for f in (train, test))
    found = []
    for chunk in test.split(max(1, 2**24 // len(train))):  # 64 MiB of similarities at a time
        votes = labels[(chunk @ train.T).topk(k, dim=1).indices]
        count = torch.zeros(len(chunk), int(labels.max()) + 1, device=votes.device)
        found.append(count.scatter_add_(1, votes, torch.ones_like(votes, dtype=count.dtype)).argmax(dim=1))
    return torch.cat(found)


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 20) -> float:
    """Return the share of test samples that `knn_predict` gets right; raises ValueError as it does."""
    test_labels = _labels(test_labels, len(test), None)
    return float((knn_predict(train, labels, test, k) == test_labels).double().mean())


# --- the fit ----------------------------------------------------------------------------------------------------------


def _fit(features: Tensor, labels: Tensor, classes: int, l2s: Sequence[float], steps: int) -> list[LinearProbe]:
    """Return a probe for each l2, which share the standardised features and their principal axes."""
    for l2 in l2s:
        if not 0 < l2 < math.inf:
            raise ValueError(f"l2 is {l2}; use a finite number above 0")
    if steps < 1:
        raise ValueError(f"steps is {steps}; use at least 1")
    mean, scale = _standard(features)
    x = (features - mean) * scale
    variances, axes = _principal(x)
    turned = x.double() @ axes
    if x.numel() > _FEW:
        variances, axes, turned = variances.float(), axes.float(), turned.float()
    probes = []
    for l2 in l2s:
        # The Hessian of the cross entropy is at most half the covariance (Böhning 1992).
        unit = (variances / 2 + l2).rsqrt()
        inner, bias = _minimise(turned * unit, labels, classes, (l2 * unit.square())[:, None], steps)
        probes.append(
            LinearProbe((axes @ (unit[:, None] * inner)).T.float().contiguous(), bias.float(), mean, scale, float(l2))
        )
    return probes


def _standard(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / standard deviation; 0 for a unit that is constant."""
    mean = features.mean(dim=0, dtype=torch.float64).float()
    deviation = (features - mean).double().square().mean(dim=0).sqrt().float()
    return mean, torch.where(deviation > 0, 1 / deviation, 0.0)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances [R] and orthonormal axes [D, R] that span the rows of x [N, D], so R ≤ min(N, D).

    The weights of the optimum lie in that span, and turning them does not change their norm.
    """
    x = x.double()
    wide = x.shape[0] < x.shape[1]
    values, vectors = torch.linalg.eigh((x @ x.T if wide else x.T @ x) / len(x))
    kept = values > 1e-10 * values[-1].clamp(min=1e-30)
    values, vectors = values[kept], vectors[:, kept]
    if wide:
        vectors = (x.T @ vectors) / (len(x) * values).sqrt()
    return values, vectors


def _minimise(x: Tensor, labels: Tensor, classes: int, decay: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return weight [R, classes] and bias of least mean cross entropy + ½ Σ decay · weight²."""
    theta = x.new_zeros(x.shape[1] + 1, classes)  # the last row is the bias
    columns, rows = torch.cat([x, torch.ones_like(labels, dtype=x.dtype)[:, None]], dim=1), labels[:, None]
    decay = torch.cat([decay, decay.new_zeros(1, 1)])
    own = torch.full_like(rows, -1.0, dtype=x.dtype)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=steps, max_eval=2 * steps, tolerance_grad=_CONVERGED[x.dtype], tolerance_change=0.0,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        logits = columns @ theta
        total = logits.logsumexp(dim=1, keepdim=True)
        value = (total - logits.gather(1, rows)).double().mean() + 0.5 * (decay * theta.square()).double().sum()
        residual = logits.sub_(total).exp_().scatter_add_(1, rows, own)
        theta.grad = columns.T @ residual / len(labels) + decay * theta
        return value

    optimiser.step(loss)  # type: ignore[arg-type]
    loss()
    assert theta.grad is not None
    if (largest := float(theta.grad.abs().max())) > _REFUSED:
        raise RuntimeError(
            f"the probe has not converged in {steps} steps: its gradient is {largest:.1e}, not "
            f"{_CONVERGED[x.dtype]:.0e}; pass more steps or a larger l2"
        )
    return theta[:-1], theta[-1]


def _cross_entropy(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    """In nats."""
    return float(torch.nn.functional.cross_entropy(probe.logits(features).double(), labels))


# --- arguments --------------------------------------------------------------------------------------------------------


def _data(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    features = matrix(features, "features").float()
    if classes < 2:
        raise ValueError(f"classes is {classes}; use at least 2")
    return features, _labels(labels, len(features), classes)


def _labels(labels: Tensor, samples: int | None, classes: int | None) -> Tensor:
    """Return labels as int64 [N], or say what is wrong with them."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}; pass integers")
    if labels.ndim != 1 or not len(labels) or samples not in (None, len(labels)):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; pass [{'N' if samples is None else samples}], one a sample"
        )
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or (classes is not None and high >= classes):
        raise ValueError(f"labels are {low} to {high}; use 0 to {'classes − 1' if classes is None else classes - 1}")
    return labels.long()
