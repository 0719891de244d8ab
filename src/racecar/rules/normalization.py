"""Normalisations: nothing on the way back; they map estimates to the range of the layer (Section 3).

Batch norm maps with the forward γ and β and the statistics of the reverse batch, and leaves the running statistics
alone (``"separate"``); ``"shared"`` updates and uses the forward ones, as the authors' TensorFlow code does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import register_reverse, unchanged

aten = torch.ops.aten


class NormCall(NamedTuple):
    """The operands of ``aten.batch_norm`` and ``aten.instance_norm``, in their order.

    Attributes:
        x: (N, C, …).
        weight: γ, (C), or None.
        bias: β, (C), or None.
        running_mean: (C), or None; with running_var updated if ``training``, else what is normalised by.
        running_var: (C), or None.
        training: normalise by the statistics of x.
        momentum: the weight of x in the running statistics.
        eps: added to the variance.
        cudnn: whether cuDNN may compute it.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float
    cudnn: bool = True

    def separate(self, estimate: Tensor) -> NormCall:
        """The norm of an estimate by its own statistics, which leaves the running ones alone.

        A single value per channel has no variance: where the norm is frozen, so that the forward pass takes it, the
        running statistics serve.
        """
        if not self.training and self.running_mean is not None and estimate.numel() == estimate.shape[1]:
            return self.shared(estimate)
        return NormCall(estimate, self.weight, self.bias, None, None, True, 0.0, self.eps)

    def shared(self, estimate: Tensor) -> NormCall:
        """The norm of an estimate as in the forward pass, the same running statistics updated or used."""
        return NormCall(estimate, *self[1:])

    @staticmethod
    def plain(estimate: Tensor) -> NormCall:
        """A norm without parameters, by the estimate's own statistics."""
        return NormCall(estimate, None, None, None, None, True, 0.0, 1e-5)

    def batch_norm(self) -> Tensor:
        """torch's batch norm: (N, C, …)."""
        return F.batch_norm(
            self.x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def batch_norm_separate(estimate: Tensor, *operands: Any) -> Tensor:
    """(N, C, …) → (N, C, …): the estimate normalised by its own statistics; operands as in :class:`NormCall`."""
    return NormCall(*operands).separate(estimate).batch_norm()


def batch_norm_shared(estimate: Tensor, *operands: Any) -> Tensor:
    """(N, C, …) → (N, C, …): the estimate normalised as in the forward pass, with the same running statistics.

    They are updated in training and used in evaluation. Operands as in :class:`NormCall`.
    """
    return NormCall(*operands).shared(estimate).batch_norm()


def plain_batch_norm(estimate: Tensor) -> Tensor:
    """Batch norm without parameters: the regenerated input of nets with BN (Table 11)."""
    return NormCall.plain(estimate).batch_norm()


def instance_norm_again(estimate: Tensor, *operands: Any) -> Tensor:
    """(N, C, …) → (N, C, …): per-sample statistics of the estimate; running statistics stay."""
    norm = NormCall(*operands)
    return F.instance_norm(estimate, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def layer_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward layer norm, applied to the estimate."""
    return aten.layer_norm.default(estimate, *args, **kwargs)


def group_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward group norm, applied to the estimate."""
    return aten.group_norm.default(estimate, *args, **kwargs)


def rms_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward RMS norm, applied to the estimate."""
    return aten.rms_norm.default(estimate, *args, **kwargs)


_RANGE_MAPS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    aten.batch_norm.default: batch_norm_separate,
    aten.instance_norm.default: instance_norm_again,
    aten.layer_norm.default: layer_norm_again,
    aten.group_norm.default: group_norm_again,
    aten.rms_norm.default: rms_norm_again,
}
for _op, _range in _RANGE_MAPS.items():
    register_reverse(_op, unchanged, range=_range)

NORMS = frozenset(_RANGE_MAPS)
COUNTING = frozenset({aten.batch_norm.default, aten.instance_norm.default})  # change their running statistics


def is_norm(op: object) -> bool:
    """Whether an operation with a range map is a norm and no activation; one of a user's own is by its name."""
    if isinstance(op, torch._ops.OpOverload) and op.namespace != "aten":
        return "norm" in op._opname
    return op in NORMS
