"""A pooling undone and the adjoint before it as one transposed convolution: equal, and fewer sums."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import racecar
from racecar.rules import convolution
from racecar.rules.convolution import conv_adjoint, upsampled_adjoint
from racecar.rules.pooling import resize2d
from racecar.rules.registry import ReverseCall

CONTEXT = ReverseCall((True, False, False), (None,), False, (True, False, False))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def both(estimate, pooled, x, weight, bias, *args):
    return [
        upsampled_adjoint(estimate, pooled, x, weight, bias, *args, context=CONTEXT),
        conv_adjoint(resize2d(estimate, pooled), x, weight, bias, *args, context=CONTEXT),
    ]


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (5, 3), (4, 2)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "valid", "same"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_equals_upsampling_and_adjoint(kernel, padding, groups):
    around = {"same": [(k - 1) / 2 for k in kernel], "valid": (0, 0)}.get(padding, padding)
    around = around if isinstance(around, list | tuple) else (around, around)
    size = [int(8 - 2 * p + k - 1) for p, k in zip(around, kernel, strict=True)]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    exact = F.conv2d(x, weight, bias, 1, padding, 1, groups)
    estimate = F.max_pool2d(exact, 2).detach().requires_grad_()
    found = both(estimate, exact, x, weight, bias, 1, padding, 1, groups)
    assert found[0].shape == x.shape
    torch.testing.assert_close(*found)
    gradient = torch.randn_like(x)
    gradients = [torch.autograd.grad(f, (estimate, weight, bias), gradient) for f in found]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("dtype", "size", "stride", "dilation"),
    [
        (torch.bfloat16, 8, 1, 1),
        (torch.float32, 9, 1, 1),
        (torch.float32, 8, 2, 1),
        (torch.float32, 8, 1, 2),
    ],
)
def test_is_left_as_it_was(dtype, size, stride, dilation):
    x, weight = torch.randn(1, 2, 2 * size, 2 * size).to(dtype), torch.randn(3, 2, 3, 3).to(dtype)
    out = F.conv2d(x, weight, None, stride, 1, dilation)
    one, other = both(F.max_pool2d(out, 2, ceil_mode=True)[:, :, :4, :4], out, x, weight, None, stride, 1, dilation)
    assert torch.equal(one, other)


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((2, 4), (4, 6), (6, 4)))
        self.norm, self.pool = nn.BatchNorm2d(4), pool

    def forward(self, x):
        return self.c(self.pool(torch.relu(self.b(self.norm(self.pool(torch.relu(self.a(x))))))))


def _trained(model, x, **options):
    rr = racecar.Racecar(model, x, **options)
    with FlopCounterMode(display=False) as counter:
        output, penalty = rr(x)
        (output.square().mean() + penalty).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return rr, penalty.detach(), gradients, counter.get_total_flops()


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2, return_indices=False), nn.AdaptiveMaxPool2d(4)]
)
@pytest.mark.parametrize(
    "options", [{}, {"layerwise": True}, {"fraction": 0.5}, {"subset": 1}, {"checkpoint": True}], ids=str
)
def test_a_model_trains_as_before_with_fewer_sums(monkeypatch, pool, options):
    model, x = Pooled(pool).double(), torch.randn(4, 2, 16, 16, dtype=torch.float64)
    _, penalty, gradients, flops = _trained(model, x, **options)
    monkeypatch.setattr(convolution, "_sums_taps", lambda *args: False)
    _, before, wanted, more = _trained(model, x, **options)
    torch.testing.assert_close(penalty, before)
    torch.testing.assert_close(gradients, wanted)
    assert flops < more or "subset" in options or isinstance(pool, nn.AdaptiveMaxPool2d)


def test_a_rule_of_the_user_stays():
    seen = []

    def own(estimate, x, *args, context, **kwargs):
        seen.append(tuple(estimate.shape))
        return conv_adjoint(estimate, x, *args, context=context)

    op = torch.ops.aten.conv2d.default
    racecar.register_reverse(op, own, layer="conv", operands=1, context=True)
    try:
        rr = racecar.Racecar(Pooled(nn.MaxPool2d(2)), torch.randn(2, 2, 16, 16))
        rr(torch.randn(2, 2, 16, 16))
    finally:
        racecar.register_reverse(op, conv_adjoint, layer="conv", operands=1, context=True)
    assert (2, 4, 16, 16) in seen


def test_sizes_that_do_not_double():
    model = Pooled(nn.MaxPool2d(2))
    rr = racecar.Racecar(model, torch.randn(2, 2, 16, 16))
    for size in (16, 18, 15):
        _, penalty = rr(torch.randn(3, 2, size, size))
        assert penalty.isfinite()


def test_pairs_are_of_the_same_estimates():
    model = Pooled(nn.MaxPool2d(2)).double()
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    rr = racecar.Racecar(model, x)
    distances = [0.5 * (a - b).square().mean() for a, b in rr.reconstruct(x).values()]
    torch.testing.assert_close(rr.distances(x)[1], torch.stack(distances))
