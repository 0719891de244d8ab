"""Cheaper forms of the racecar penalty that were tried: prototypes for ``less.py``, no part of the library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

import racecar
from racecar.options import Options
from racecar.rules.convolution import conv_adjoint
from racecar.rules.linear import linear_adjoint, rows_inform
from racecar.study.coarse_to_fine.networks import Classifier

aten = torch.ops.aten


# --- Gram form --------------------------------------------------------------------------------------------------------


class _Quadratic(Function):
    """Σ yᵀ(WWᵀ)y over the rows of y [B, U], for W [U, I]; two products of U × U forward, two backward."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        product = y @ (weight @ weight.T)
        ctx.save_for_backward(y, weight, product)
        return (product * y).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y, weight, product = ctx.saved_tensors
        return (2 * gradient) * product, (2 * gradient) * ((y.T @ y) @ weight)


def gram_distance(x: Tensor, y: Tensor, weight: Tensor, product: Tensor) -> Tensor:
    """½‖x − Wᵀy‖² = ½(‖x‖² − 2⟨y, Wx⟩ + yᵀ(WWᵀ)y): exact, and without anything of x's size but ‖x‖².

    Args:
        x: [B, I].
        y: [B, U].
        weight: [U, I].
        product: Wx, which the forward pass has found.
    """
    return 0.5 * (x.square().sum() + _Quadratic.apply(y, weight)) - (y * product).sum()


def plain_distance(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """½‖x − Wᵀy‖²."""
    return 0.5 * (x - y @ weight).square().sum()


# --- a share of the channels ------------------------------------------------------------------------------------------


def _drawn(weight: Tensor, share: float) -> tuple[Tensor, float]:
    count = max(1, round(share * len(weight)))
    return torch.randperm(len(weight), device=weight.device)[:count], len(weight) / count


@contextlib.contextmanager
def share_of_the_channels(share: float) -> Iterator[None]:
    """Inside, the reverse product of a layer sums over drawn outputs alone, times n/k: on average the same estimate.

    Linear layers and convolutions; by the public registry of rules, into which the exact ones return.
    """

    def linear(
        estimate: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, context: racecar.ReverseCall
    ) -> Tensor:
        chosen, factor = _drawn(weight, share)
        own = None if bias is None else bias[chosen]
        return factor * linear_adjoint(estimate[..., chosen], x, weight[chosen], own, context=context)

    def conv(
        estimate: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        context: racecar.ReverseCall,
    ) -> Tensor:
        chosen, factor = _drawn(weight, share)
        own = None if bias is None else bias[chosen]
        return factor * conv_adjoint(estimate[:, chosen], x, weight[chosen], own, *rest, context=context)

    given = {"operands": 1, "context": True}
    racecar.register_reverse(aten.linear.default, linear, layer="linear", informs=rows_inform, **given)
    racecar.register_reverse(aten.conv2d.default, conv, layer="conv", **given)
    try:
        yield
    finally:
        racecar.register_reverse(aten.linear.default, linear_adjoint, layer="linear", informs=rows_inform, **given)
        racecar.register_reverse(aten.conv2d.default, conv_adjoint, layer="conv", **given)


# --- int8 -------------------------------------------------------------------------------------------------------------


class Int8Product(Function):
    """y [B, U] times W [U, I] in int8, one scale each; the gradient is that of the exact product."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(y, weight)
        (a, s), (b, t) = _quantised(y), _quantised(weight)
        return torch._int_mm(a, b).to(y.dtype).mul_(s * t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y, weight = ctx.saved_tensors
        return gradient @ weight.T, y.T @ gradient


def _quantised(value: Tensor) -> tuple[Tensor, Tensor]:
    scale = value.abs().amax() / 127
    return (value / scale).round_().to(torch.int8), scale


# --- convolutions of kernel 3, stride 1, padding 1, at fewer places ---------------------------------------------------


def upsampled(y: Tensor, pooled: bool) -> Tensor:
    """A pooling of 2 × 2 undone, where there was one."""
    return F.interpolate(y, scale_factor=2, mode="nearest") if pooled else y


def adjoint(y: Tensor, weight: Tensor, pooled: bool = False) -> Tensor:
    """Wᵀ of (N, out, h, w), as the library computes it."""
    return F.conv_transpose2d(upsampled(y, pooled), weight, None, 1, 1)


def in_one(y: Tensor, weight: Tensor, pooled: bool = True) -> Tensor:
    """The same as one transposed convolution of kernel 4 and stride 2: four ninths of the sums behind a pooling."""
    if not pooled:
        return adjoint(y, weight)
    kernel = F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, 1, divisor_override=1)
    return F.conv_transpose2d(y, kernel, None, 2, 1)


def on_a_grid(y: Tensor, weight: Tensor, pooled: bool, place: tuple[int, int]) -> Tensor:
    """``adjoint(…)[:, :, a::2, b::2]``: a quarter of the places."""
    kernel = weight.transpose(0, 1).flip(2, 3)
    left = [1 - place[1], place[1], 1 - place[0], place[0]]
    if not pooled:
        return F.conv2d(F.pad(y, left), kernel, None, 2)
    for dim, offset in ((2, place[0]), (3, place[1])):  # two of the three taps see the same value
        first, middle, last = kernel.split(1, dim)
        kernel = torch.cat([first + middle, last] if offset else [first, middle + last], dim)
    return F.conv2d(F.pad(y, left), kernel)


def pooled_adjoint(y: Tensor, weight: Tensor, pooled: bool) -> Tensor:
    """``avg_pool2d(adjoint(…), 2)`` as one convolution of kernel 4 and stride 2."""
    kernel = F.avg_pool2d(F.pad(weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1)), 2, 1)
    return F.conv2d(upsampled(y, pooled), kernel, None, 2, 1)


Form = Literal["chain", "layerwise", "half", "grid", "pooled"]


class Written(nn.Module):
    """RR^7 of the study's conv net by hand, in place of a :class:`racecar.Racecar`: ``output, penalty = rr(x)``.

    Args:
        model: the study's conv net, see :func:`racecar.study.cifar.network.strong`.
        form: ``chain`` and ``layerwise`` are the library's own, for comparison; ``half``: the chain at half the
            resolution, each estimate beside the mean of 2 × 2 places of L_m; ``grid``: layerwise, at every second
            place of every second row, from a drawn one on; ``pooled``: layerwise, means of 2 × 2 places.
    """

    every, decoder, check_finite = 1, None, True
    lambdas: Tensor

    def __init__(self, model: Classifier, form: Form) -> None:
        super().__init__()
        self.model, self.form, self.options = model, form, Options()
        body = model.body
        self.blocks = [
            (getattr(body, f"conv{m}"), m in (2, 4, 6), getattr(body, f"bn{m}"), getattr(body, f"act{m}"))
            for m in range(1, 8)
        ]
        self.register_buffer("lambdas", torch.ones(7), persistent=False)
        self.calls = self.draws = 0

    def forward(self, x: Tensor) -> Any:
        """The model's output, and in training the penalty."""
        if not self.training:
            return self.model(x)
        values = [x]
        for conv, pooled, norm, activation in self.blocks:
            x = conv(x)
            x = activation(norm(F.max_pool2d(x, 2) if pooled else x))
            values.append(x)
        output = self.model.head(F.adaptive_max_pool2d(values[-1], 1).flatten(1))
        return output, (self.lambdas * torch.stack(self._distances(values))).sum()

    def _distances(self, values: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        estimate = F.avg_pool2d(values[-1], 2) if self.form == "half" else values[-1]
        for m in range(7, 0, -1):
            conv, pooled, _, _ = self.blocks[m - 1]
            seen, after = values[m - 1], values[m]
            if self.form == "grid":
                place = tuple(torch.randint(2, (2,)).tolist())
                seen = seen[:, :, place[0] :: 2, place[1] :: 2]
                estimate = on_a_grid(after, conv.weight, pooled, place)
            elif self.form == "pooled":
                seen, estimate = F.avg_pool2d(seen, 2), pooled_adjoint(after, conv.weight, pooled)
            else:
                estimate = adjoint(after if self.form == "layerwise" else estimate, conv.weight, pooled)
                seen = F.avg_pool2d(seen, 2) if self.form == "half" else seen
            if m > 1:  # to the range of L_m
                _, _, norm, activation = self.blocks[m - 2]
                mapped = F.batch_norm(estimate, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
                estimate = activation(mapped)
            found.append(0.5 * (seen.float() - estimate.float()).square().mean())
        return found[::-1]
