"""λ from gradient norms: the penalty pulls on the weights ``ratio`` times as hard as the task's loss does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from racecar.errors import ArgumentError, NonFiniteError
from racecar.module import Racecar


@dataclass(frozen=True)
class Balance:
    """What :func:`balance` has measured and set.

    Attributes:
        loss: norm of the loss's gradient.
        penalty: norm of the penalty's gradient with the λ that it was computed with.
        lambdas: λ_m of Eq. 1 from now on.
    """

    loss: float
    penalty: float
    lambdas: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Of the penalty's norm to the loss's, as it was found."""
        return self.penalty / self.loss


def balance(rr: Racecar, loss: Tensor, penalty: Tensor, *, ratio: float = 0.3, smoothing: float = 0.0) -> Balance:
    """Set λ so that ‖∇ penalty‖ = ratio · ‖∇ loss‖ over the weights that both losses train.

    These are the model's parameters up to the start I_r of the reverse pass, biases and norms included; the head, which
    the penalty does not see, and an untied decoder, which the loss does not see, are left out. λ takes effect in the
    next call: the penalty at hand was computed with the old ones. No ``grad`` is touched, and the graph is kept for
    ``backward``.

    Call it before training, on one or more batches, or now and then in training to hold the ratio, which brought
    nothing where it was measured (results/balance.md). Save ``rr.lambdas`` with a checkpoint: they are in no
    ``state_dict``.

    With ``every=k`` only the calls that run the reverse pass have a penalty to balance, and it is the mean penalty that
    gets the ratio, so λ does not depend on k. With a gradient scaler give ``scaler.scale(loss)`` and
    ``scaler.scale(penalty)``: what scales both scales neither λ. Where ``torch.distributed`` is initialised, all
    processes call together; the gradients are averaged over them before their norms are taken, as
    DistributedDataParallel averages them, so that all get the same λ, those of one process with the whole batch. Give
    loss and penalty as they are added up for ``backward``. Not for weights sharded by FSDP: balance before sharding.

    Args:
        rr: whose λ are set.
        loss: the task's, a scalar.
        penalty: what ``rr(x)`` returned, a scalar: all λ_m are scaled by one factor and keep their proportions. Or the
            distances [n] that ``rr.distances(x)`` returned: every layer's term gets a gradient of the same norm, and
            their sum the ratio.
        ratio: of the norms.
        smoothing: β: λ becomes λ^β · (the λ that hold the ratio now)^(1 − β), a moving average of its logarithm for
            repeated calls. 0 forgets the old λ, 1 keeps them and only measures.

    Returns:
        The norms that were found, and the λ that were set.

    Raises:
        ArgumentError: ratio or smoothing out of range; a loss without a graph, or with a compiled one; no weight is
            trained by both; a gradient that is zero, from which no λ follows. NonFiniteError: a gradient is infinite
            or NaN. λ are then as before.

    Example:
        >>> import torch, racecar
        >>> model = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.Tanh(), torch.nn.Linear(10, 2))
        >>> x, labels = torch.randn(32, 12), torch.randint(0, 2, (32,))
        >>> rr = racecar.Racecar(model, x)
        >>> for _ in range(2):
        ...     output, penalty = rr(x)
        ...     found = racecar.balance(rr, torch.nn.functional.cross_entropy(output, labels), penalty, ratio=0.5)
        >>> round(found.ratio, 3)
        0.5
    """
    _check(rr, loss, penalty, ratio, smoothing)
    old = rr.lambdas.tolist()
    parameters = [p for p in rr.model.parameters() if p.requires_grad]
    each = penalty.ndim == 1
    ours = _gradients(loss, parameters)
    theirs = _gradients(penalty, parameters, rr.lambdas if each else None)
    both = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a is not None and b is not None]
    if not both:
        raise ArgumentError(
            "balance: no weight is trained by both the loss and the penalty: give the loss of this call's output and "
            "its penalty, and weights that require gradients"
        )
    task = _norm(_averaged(ours[i] for i in both))
    pull = _norm(_averaged(theirs[i] for i in both)) / (1 if each else rr.every)
    _check_norms({"loss": task})
    if each:
        target = [ratio * task * value for value in _equally_strong(rr, penalty, [parameters[i] for i in both])]
    else:
        _check_norms({"penalty": pull})
        target = [ratio * task / pull * value for value in old]
    new = [a**smoothing * b ** (1 - smoothing) if a > 0 else 0.0 for a, b in zip(old, target, strict=True)]
    lambdas = torch.tensor(new, dtype=rr.lambdas.dtype, device=rr.lambdas.device)
    if not torch.isfinite(lambdas).all() or not torch.equal(lambdas > 0, rr.lambdas > 0):
        raise NonFiniteError(f"balance: λ would be {new}, beyond the range of {lambdas.dtype}")
    rr.lambdas = lambdas  # a new tensor: the penalty's graph needs the old one
    return Balance(task, pull, tuple(new))


def _equally_strong(rr: Racecar, distances: Tensor, parameters: Sequence[Tensor]) -> list[float]:
    """λ_m with which every term's gradient has the same norm, and their sum the norm 1; those that are 0 stay so."""
    norms, total = [], torch.zeros((), device=distances.device)
    for name, value, distance in zip(rr.layers, rr.lambdas.tolist(), distances, strict=True):
        if value == 0:
            norms.append(math.inf)
            continue
        gradient = _averaged(_gradients(distance, parameters, materialize=True))
        norms.append(_norm(gradient))
        _check_norms({f"distance of layer {name!r}": norms[-1]})
        total = total + gradient / norms[-1]
    whole = _norm(total)
    _check_norms({"sum of all terms": whole})
    return [1 / (norm * whole) for norm in norms]


def _gradients(
    value: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None, *, materialize: bool = False
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(
        value, parameters, weights, retain_graph=True, allow_unused=True, materialize_grads=materialize
    )


def _averaged(gradients: Iterable[Tensor | None]) -> Tensor:
    """One vector, in at least single precision, averaged over the processes that train together."""
    flat = torch.cat([g.detach().flatten() for g in gradients if g is not None])
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
    return flat


def _norm(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient))


def _check(rr: Racecar, loss: Tensor, penalty: Tensor, ratio: float, smoothing: float) -> None:
    if not 0 < ratio < math.inf:
        raise ArgumentError(f"balance: ratio must be positive and finite, not {ratio!r}")
    if not 0 <= smoothing <= 1:
        raise ArgumentError(f"balance: smoothing must lie between 0 and 1, not {smoothing!r}")
    count = len(rr.lambdas)
    if loss.ndim or penalty.shape not in ((), (count,)):
        raise ArgumentError(
            f"balance: loss must be a scalar and penalty a scalar or the distances of {count} layers, not of shapes "
            f"{tuple(loss.shape)} and {tuple(penalty.shape)}"
        )
    if not loss.requires_grad or not penalty.requires_grad:
        which = "penalty" if loss.requires_grad else "loss"
        raise ArgumentError(
            f"balance: the {which} has no gradient: compute it with gradients enabled, and with every= in a call that "
            "runs the reverse pass"
        )
    if _compiled(penalty):
        raise ArgumentError(
            "balance: the penalty comes from a compiled program, whose graph can be walked once only and hides which "
            "weights it reaches: call rr uncompiled to measure"
        )
    if not (rr.lambdas > 0).any():
        raise ArgumentError("balance: all λ are zero, and a multiple of zero is zero: begin with a positive weight=")


def _compiled(value: Tensor) -> bool:
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("CompiledFunction"):
            return True
        waiting.extend(following for following, _ in node.next_functions)
    return False


def _check_norms(norms: Mapping[str, float]) -> None:
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise NonFiniteError(f"balance: the gradient of the {name} is not finite (norm {norm}): λ stay as they are")
        if norm == 0:
            raise ArgumentError(f"balance: the gradient of the {name} is zero, from which no λ follows")
