"""Attention: the value path backwards, with the forward attention weights transposed.

Every position gets the average of the estimates of those that attended to it, weighted by how much they did, so that an
estimate of values stays an average of values. Queries and keys are the coefficient: nothing comes back to them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from racecar.rules.arithmetic import mean_to
from racecar.rules.registry import ReverseCall, register_reverse

aten = torch.ops.aten


def attended_average(estimate: Tensor, attention: Tensor, known: Tensor | None = None) -> Tensor:
    """(…, queries, d) → (…, keys, d): Σ_i A_ij y_i / Σ_i A_ij over the queries i that are known.

    Args:
        estimate: of A V, 0 where it is not known.
        attention: A, (…, queries, keys), not negative.
        known: which entries of the estimate are, a bool tensor that broadcasts.
    """
    back = attention.mT
    if known is None:
        weight = attention.sum(-2).unsqueeze(-1)
    else:
        rows = known.expand(*known.shape[:-2], estimate.shape[-2], known.shape[-1])
        weight = back @ rows.to(back.dtype).expand(*estimate.shape[:-1], known.shape[-1])
    return (back @ estimate) / weight.clamp(min=torch.finfo(weight.dtype).tiny ** 0.5)


@register_reverse(aten.scaled_dot_product_attention.default, context=True)
def attention_back(
    estimate: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    context: ReverseCall,
) -> tuple[None, None, Tensor]:
    """(N, heads, queries, d) → values (N, heads, keys, d); attention weights as forward, without dropout."""
    groups = query.shape[-3] // value.shape[-3] if enable_gqa else 1
    if groups > 1:
        key, value_heads = key.repeat_interleave(groups, -3), value.shape[-3]
    scores = (query @ key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    attention = scores.softmax(-1)
    if attn_mask is not None:  # a query that may attend to nothing has no weights
        attention = attention.nan_to_num(0.0)
    values = attended_average(estimate, attention.to(estimate.dtype), context.known[0])
    if groups > 1:
        values = values.unflatten(-3, (value_heads, groups)).mean(-3)
    return None, None, mean_to(values, value)  # heads may share values
