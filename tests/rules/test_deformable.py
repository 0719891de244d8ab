"""Deformable convolution: the adjoint towards what is read, with the forward pass's offsets and mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

torchvision = pytest.importorskip("torchvision", reason="torchvision is not there: its operation is not tested")
from racecar.rules.deformable import deform_conv2d  # noqa: E402

PLACES = (1, 2, 1, 0, 1, 1, 2, 1, True)  # strides, paddings, dilations, weight groups, offset groups, whether masked


def operands() -> tuple[Tensor, ...]:
    """(x, weight, offset, mask, bias)."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 6, 7).double(), torch.randn(6, 2, 3, 3).double()
    rows, columns = 6, 3
    offset, mask = torch.randn(2, 18, rows, columns).double(), torch.rand(2, 9, rows, columns).double()
    return x, weight, offset, mask, torch.randn(6).double()


def back(y: Tensor, *args: Tensor) -> Tensor:
    rule = find_rule(deform_conv2d)
    assert rule is not None
    return rule.reverse(y, *args, *PLACES, context=racecar.ReverseCall((True, False, False, False, False)))


def test_adjoint() -> None:
    x, weight, offset, mask, bias = operands()
    y = deform_conv2d(x, weight, offset, mask, bias, *PLACES)
    estimate = torch.randn_like(y)
    shift = bias.view(-1, 1, 1)
    left = ((y - shift) * (estimate - shift)).sum()
    torch.testing.assert_close(left, (x * back(estimate, x, weight, offset, mask, bias)).sum())


def test_the_adjoint_can_be_differentiated() -> None:
    x, weight, offset, mask, bias = operands()
    estimate = torch.randn_like(deform_conv2d(x, weight, offset, mask, bias, *PLACES))
    wanted = [t.requires_grad_() for t in (estimate, weight, offset, mask)]

    def forth(y: Tensor, w: Tensor, o: Tensor, m: Tensor) -> Tensor:
        return back(y, x, w, o, m, bias)

    assert torch.autograd.gradcheck(forth, wanted)


class Deformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.offsets = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 18, 3, padding=1)
        self.b = torchvision.ops.DeformConv2d(4, 5, 3, padding=1)
        self.c = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.c(self.b(h, self.offsets(h)).relu())


def test_a_deformable_convolution_is_a_layer() -> None:
    torch.manual_seed(0)
    net, x = Deformed(), torch.randn(2, 3, 6, 6)
    rr = racecar.Racecar(net, x)
    assert rr.layers == ("a", "b", "c")
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    penalty.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (net.a, net.b, net.c, net.offsets))
