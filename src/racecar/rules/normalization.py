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


register_reverse(aten.batch_norm.default, unchanged, range=batch_norm_separate)
register_reverse(aten.instance_norm.default, unchanged, range=instance_norm_again)
register_reverse(aten.layer_norm.default, unchanged, range=layer_norm_again)
register_reverse(aten.group_norm.default, unchanged, range=group_norm_again)
register_reverse(aten.rms_norm.default, unchanged, range=rms_norm_again)
