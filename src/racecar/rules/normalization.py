"""Normalisations: nothing on the way back; they map estimates to the range of the layer (Section 3).

Batch norm maps with the forward γ and β and the statistics of the reverse batch, and leaves the running statistics
alone (``"separate"``); ``"shared"`` updates and uses the forward ones, as the authors' TensorFlow code does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.rules.registry import register_reverse, unchanged

aten = torch.ops.aten


def batch_norm_separate(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *args: object,
) -> Tensor:
    """(N, C, …) → (N, C, …): the estimate normalised by its own statistics."""
    return F.batch_norm(estimate, None, None, weight, bias, True, 0.0, eps)


def batch_norm_shared(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *args: object,
) -> Tensor:
    """(N, C, …) → (N, C, …): as forward, the same running statistics updated (training) or used (evaluation)."""
    return F.batch_norm(estimate, running_mean, running_var, weight, bias, training, momentum, eps)


def plain_batch_norm(estimate: Tensor) -> Tensor:
    """Batch norm without parameters: the regenerated input of nets with BN (Table 11)."""
    return F.batch_norm(estimate, None, None, None, None, True, 0.0, 1e-5)


def instance_norm_again(
    estimate: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *args: object,
) -> Tensor:
    """(N, C, …) → (N, C, …): per-sample statistics of the estimate; running statistics stay."""
    return F.instance_norm(estimate, None, None, weight, bias, True, 0.0, eps)


def layer_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward layer norm, applied to the estimate."""
    return aten.layer_norm.default(estimate, *args, **kwargs)


def group_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward group norm, applied to the estimate."""
    return aten.group_norm.default(estimate, *args, **kwargs)


def rms_norm_again(estimate: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward RMS norm, applied to the estimate."""
    return aten.rms_norm.default(estimate, *args, **kwargs)


_RANGE_MAPS = {
    aten.batch_norm.default: batch_norm_separate,
    aten.instance_norm.default: instance_norm_again,
    aten.layer_norm.default: layer_norm_again,
    aten.group_norm.default: group_norm_again,
    aten.rms_norm.default: rms_norm_again,
}
for _op, _range in _RANGE_MAPS.items():
    register_reverse(_op, unchanged, range=_range)

NORMS = frozenset(_RANGE_MAPS)


def is_norm(op: object) -> bool:
    """Whether an operation with a range map is a norm and no activation; one of a user's own is by its name."""
    if isinstance(op, torch._ops.OpOverload) and op.namespace != "aten":
        return "norm" in op._opname
    return op in NORMS
