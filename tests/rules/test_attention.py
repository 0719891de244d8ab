"""Attention is reversed along its values, with the forward weights transposed and made to sum to one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("nhid,nhjd->nhij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("nhij,nhjd->nhid", weights, v)


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = ((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1)
    return (v.transpose(-2, -1) @ weights.transpose(-2, -1)).transpose(-2, -1)


WRITTEN: dict[str, Attend] = {
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "matmul": explicit,
    "einsum": by_einsum,
    "values first": values_first,
}


class Block(nn.Module):
    """Self-attention with two heads; the three projections in one layer or in three."""

    def __init__(self, attend: Attend, fused: bool) -> None:
        super().__init__()
        self.attend, self.fused = attend, fused
        if fused:
            self.qkv = nn.Linear(6, 12)
        else:
            self.q, self.k, self.v = (nn.Linear(6, 4) for _ in range(3))
        self.out = nn.Linear(4, 6)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 2)).transpose(1, 2)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (self.heads(p) for p in parts)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.project(x)).transpose(1, 2).flatten(2))


def by_hand(net: Block, x: Tensor, rows: slice = slice(None)) -> Tensor:
    """The regenerated input; ``rows``: queries whose output is known."""
    q, k, _ = net.project(x)
    attention = ((q @ k.transpose(-2, -1)) / math.sqrt(2)).softmax(-1)[:, :, rows]
    h = net.heads((net(x)[:, rows] - net.out.bias) @ net.out.weight)
    values = torch.einsum("nhij,nhid->nhjd", attention, h) / attention.sum(2)[..., None]
    back = values.transpose(1, 2).flatten(2)
    weight, bias = (net.qkv.weight[8:], net.qkv.bias[8:]) if net.fused else (net.v.weight, net.v.bias)
    return (back - bias) @ weight


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("written", WRITTEN)
def test_every_way_to_write_it_equals_the_formula(written: str, fused: bool) -> None:
    torch.manual_seed(0)
    net, x = Block(WRITTEN[written], fused).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    rr = racecar.Racecar(net, x)
    assert rr.layers == (("qkv", "out") if fused else ("v", "out"))
    pairs = rr.reconstruct(x)
    torch.testing.assert_close(pairs[rr.layers[0]][1], by_hand(net, x))


def test_an_estimate_of_values_stays_an_average_of_the_outputs() -> None:
    """Where every query has the same output, every value has it, however attention is spread."""
    from racecar.rules.attention import attended_average

    torch.manual_seed(0)
    attention = torch.randn(2, 3, 7, 5).mul(3).softmax(-1)
    y = torch.randn(2, 3, 1, 4).expand(2, 3, 7, 4)
    torch.testing.assert_close(attended_average(y, attention), y[:, :, :5])


class FirstToken(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


@pytest.mark.parametrize("written", ["scaled_dot_product_attention", "matmul", "einsum", "values first"])
def test_from_a_class_token_every_value_is_known(written: str) -> None:
    torch.manual_seed(0)
    net, x = FirstToken(WRITTEN[written], True).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    rr = racecar.Racecar(net, x, layers="all", start="")
    _, right = rr.reconstruct(x)["qkv"]
    whole = Block.forward

    class Whole(Block):
        forward = whole

    twin = Whole(WRITTEN[written], True).double()
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(right, by_hand(twin, x, slice(0, 1)))


@pytest.mark.parametrize(
    "options",
    [{"is_causal": True}, {"scale": 0.3}, {"dropout_p": 0.0}, {"attn_mask": True}, {"attn_mask": False}],
    ids=str,
)
def test_options_of_scaled_dot_product_attention(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    mask: Tensor | None = None
    if "attn_mask" in options:
        mask = torch.rand(5, 5) > 0.4 if options["attn_mask"] else torch.randn(5, 5, dtype=torch.float64)
        if mask.dtype == torch.bool:
            mask.fill_diagonal_(True)
        options = {"attn_mask": mask}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **options)  # type: ignore[arg-type]

    def slow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * float(options.get("scale", 1 / math.sqrt(2)))  # type: ignore[arg-type]
        if options.get("is_causal"):
            scores = scores.masked_fill(torch.ones(5, 5).triu(1) > 0, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1) @ v

    one, x = Block(attend, True).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    other = Block(slow, True).double()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(racecar.Racecar(one, x)(x)[1], racecar.Racecar(other, x)(x)[1])


def test_heads_that_share_keys_and_values() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 6, 3), torch.randn(2, 2, 6, 3)
    from racecar.rules.attention import attention_back

    y = torch.randn(2, 4, 5, 3)
    call = racecar.ReverseCall((False, False, True))
    _, _, shared = attention_back(y, q, k, v, enable_gqa=True, context=call)
    _, _, apart = attention_back(y, q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), context=call)
    torch.testing.assert_close(shared, apart.unflatten(1, (2, 2)).mean(2))
    torch.testing.assert_close(
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)),
    )


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_of_torch(need_weights: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.attention(x, x, x, need_weights=need_weights)[0])

    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(3, 5, 6, dtype=torch.float64)
    rr = racecar.Racecar(net, x, layers="all")
    first = next(iter(rr.reconstruct(x).values()))[1]
    a = net.attention
    q, k, _ = (a.in_proj_weight.chunk(3)[i] @ x.mT for i in range(3))
    q, k = (t.mT.unflatten(-1, (2, 3)).transpose(1, 2) for t in (q, k))
    attention = (q @ k.mT / math.sqrt(3)).softmax(-1)
    h = (net(x) - net.last.bias) @ net.last.weight
    h = ((h - a.out_proj.bias) @ a.out_proj.weight).unflatten(-1, (2, 3)).transpose(1, 2)
    values = (attention.mT @ h / attention.sum(2)[..., None]).transpose(1, 2).flatten(2)
    expected = (values - a.in_proj_bias[12:]) @ a.in_proj_weight[12:]
    torch.testing.assert_close(first.transpose(0, 1), expected)  # tokens come first inside
