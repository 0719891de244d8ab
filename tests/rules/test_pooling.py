"""Pooling is reversed by nearest upsampling to the forward input's size, upsampling by max pooling."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BACK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def nearest(estimate: Tensor, size: tuple[int, ...]) -> Tensor:
    """Written out by indices: place i of n takes the value i·m // n of m."""
    for d, n in enumerate(size, start=2):
        m = estimate.shape[d]
        estimate = estimate.index_select(d, torch.tensor([i * m // n for i in range(n)]))
    return estimate


class Around(nn.Module):
    """conv → ReLU → the operation → conv."""

    def __init__(self, operation: nn.Module, dims: int) -> None:
        super().__init__()
        self.first, self.last = CONV[dims](2, 3, 1), CONV[dims](3, 2, 1)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(torch.relu(self.first(x))))


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def check(operation: nn.Module, dims: int, size: tuple[int, ...], expected: Any) -> None:
    torch.manual_seed(3)
    model = Around(operation, dims).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    last, first = model.last, model.first
    raw = BACK[dims](model(x) - last.bias.view(-1, *[1] * dims), last.weight)
    estimate = torch.relu(raw)  # the range map of the operation's input goes through to its output
    torch.testing.assert_close(pairs["last"][1], estimate)
    before = expected(estimate)
    assert before.shape[2:] == size
    regenerated = BACK[dims](before - first.bias.view(-1, *[1] * dims), first.weight)
    torch.testing.assert_close(pairs["first"][1], regenerated)
    assert float(estimate.detach().abs().max()) > 0.01


POOLINGS = [
    (nn.MaxPool1d(2), (8,)),
    (nn.MaxPool1d(2), (9,)),
    (nn.MaxPool1d(3, stride=2, padding=1), (7,)),
    (nn.AvgPool1d(3), (11,)),
    (nn.AdaptiveAvgPool1d(3), (7,)),
    (nn.AdaptiveMaxPool1d(2), (5,)),
    (nn.MaxPool2d(2), (8, 6)),
    (nn.MaxPool2d(2), (7, 5)),
    (nn.MaxPool2d((2, 3), stride=(3, 1), dilation=(1, 2)), (10, 9)),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (8, 7)),
    (nn.AvgPool2d(2), (6, 7)),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (6, 7)),
    (nn.AdaptiveAvgPool2d((3, 2)), (7, 7)),
    (nn.AdaptiveAvgPool2d(1), (5, 3)),
    (nn.AdaptiveMaxPool2d((2, 5)), (7, 6)),
    (nn.MaxPool3d(2), (4, 5, 6)),
    (nn.AvgPool3d(2), (5, 4, 3)),
    (nn.AdaptiveAvgPool3d((1, 2, 3)), (3, 5, 4)),
    (nn.AdaptiveMaxPool3d(2), (3, 5, 4)),
]


@pytest.mark.parametrize(("pool", "size"), POOLINGS, ids=str)
def test_pooling_is_reversed_by_nearest_upsampling(pool: nn.Module, size: tuple[int, ...]) -> None:
    check(pool, len(size), size, lambda estimate: nearest(estimate, size))


def test_max_pooling_with_indices() -> None:
    pool = Function(lambda x: F.max_pool2d(x, 2, return_indices=True)[0])
    check(pool, 2, (7, 5), lambda estimate: nearest(estimate, (7, 5)))


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), (3,)])
def test_the_mean_over_dimensions_is_global_average_pooling(dims: tuple[int, ...], keepdim: bool) -> None:
    torch.manual_seed(4)
    size = (5, 4)
    pool = Function(lambda t: t.mean(dims, keepdim=keepdim))
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), pool, nn.Flatten()).double()
    conv = model[0]
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    pairs = racecar.Racecar(model, x, start="2").reconstruct(x)
    spread = torch.relu(conv(x)).mean(dims, keepdim=True).expand(2, 3, *size)
    expected = F.conv_transpose2d(spread - conv.bias.view(-1, 1, 1), conv.weight)
    torch.testing.assert_close(pairs["0"][1], expected)


def block_maximum(factor: int, dims: int) -> Any:
    return lambda e: {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims](e, factor)


UPSAMPLINGS = [
    (nn.Upsample(scale_factor=2), (5,), 2),
    (nn.Upsample(scale_factor=2, mode="linear"), (4,), 2),
    (nn.Upsample(scale_factor=2), (3, 5), 2),
    (nn.Upsample(scale_factor=3), (3, 4), 3),
    (nn.Upsample(size=(6, 10)), (3, 5), 2),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (3, 5), 2),
    (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (3, 5), 2),
    (nn.Upsample(scale_factor=2, mode="bicubic"), (3, 5), 2),
    (nn.UpsamplingNearest2d(scale_factor=2), (4, 3), 2),
    (nn.Upsample(scale_factor=2), (2, 3, 4), 2),
    (nn.Upsample(scale_factor=2, mode="trilinear"), (2, 3, 4), 2),
]


@pytest.mark.parametrize(("up", "size", "factor"), UPSAMPLINGS, ids=str)
def test_upsampling_is_reversed_by_max_pooling(up: nn.Module, size: tuple[int, ...], factor: int) -> None:
    check(up, len(size), size, block_maximum(factor, len(size)))


@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 2)])
def test_exact_nearest_upsampling(size: tuple[int, ...]) -> None:
    check(nn.Upsample(scale_factor=2, mode="nearest-exact"), len(size), size, block_maximum(2, len(size)))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiased_resizing(mode: str) -> None:
    up = Function(lambda x: F.interpolate(x, scale_factor=2, mode=mode, antialias=True))
    check(up, 2, (3, 4), block_maximum(2, 2))
    down = Function(lambda x: F.interpolate(x, size=(3, 2), mode=mode, antialias=True))
    check(down, 2, (7, 6), lambda estimate: nearest(estimate, (7, 6)))


def test_resizing_without_names_of_sizes() -> None:
    """torch's own operations, as libraries call them: the same rule as for torch.nn.functional's."""
    up = Function(lambda x: torch.ops.aten.upsample_nearest2d.default(x, [6, 8], None, None))
    check(up, 2, (3, 4), block_maximum(2, 2))


def test_fractional_pooling_is_reversed_by_nearest_upsampling() -> None:
    for size in ((7, 6), (5, 6, 5)):
        kind = {2: nn.FractionalMaxPool2d, 3: nn.FractionalMaxPool3d}[len(size)]
        samples = torch.rand(2, 3, len(size), dtype=torch.float64)
        pool = kind(2, output_size=[3] * len(size), _random_samples=samples)
        check(pool, len(size), size, lambda estimate, size=size: nearest(estimate, size))


@pytest.mark.parametrize("size", [(8,), (6, 4), (4, 6, 2)])
def test_unpooling_is_reversed_by_reading_where_it_wrote(size: tuple[int, ...]) -> None:
    dims = len(size)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims]
    unpool = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}[dims]
    places: list[Tensor] = []

    def up(x: Tensor) -> Tensor:
        _, indices = pool(F.interpolate(torch.sin(9 * x), scale_factor=2), 2, return_indices=True)
        places[:] = [indices]
        return unpool(x, indices, 2)

    torch.manual_seed(3)
    model = Around(Function(up), dims).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    first, last = model.first, model.last
    output = model(x)
    raw = BACK[dims](output - last.bias.view(-1, *[1] * dims), last.weight)
    before = raw.flatten(2).gather(2, places[0].flatten(2)).view(2, 3, *size)
    mapped = torch.relu(before)  # the range of what was unpooled; where nothing was put is 0
    torch.testing.assert_close(pairs["last"][1], unpool(mapped, places[0], 2))
    expected = BACK[dims](mapped - first.bias.view(-1, *[1] * dims), first.weight)
    torch.testing.assert_close(pairs["first"][1], expected)


def test_resizing_that_grows_one_way_and_shrinks_the_other() -> None:
    def expected(e: Tensor) -> Tensor:  # forward 6×4 → 3×8: back, the width by maxima, the height by copies
        return F.max_pool2d(e, (1, 2)).repeat_interleave(2, 2)

    check(nn.Upsample(size=(3, 8)), 2, (6, 4), expected)


def test_the_rules_take_inputs_without_a_batch_dimension() -> None:
    x, estimate = torch.randn(3, 5, 7), torch.randn(3, 2, 3)
    rule = find_rule(aten.max_pool2d.default)
    assert rule is not None
    back = rule.reverse(estimate, x, [2, 2])
    assert torch.equal(back, nearest(estimate[None], (5, 7))[0])
    up = find_rule(aten.upsample_nearest2d.vec)
    assert up is not None
    big = torch.randn(1, 3, 4, 6)
    assert torch.equal(up.reverse(big, big[:, :, ::2, ::2], None, [2.0, 2.0]), F.max_pool2d(big, 2))


def test_indices_alone_tell_nothing() -> None:
    rule = find_rule(aten.max_pool2d_with_indices.default)
    assert rule is not None
    assert rule.reverse([None, torch.zeros(1, 1, 2, 2)], torch.zeros(1, 1, 4, 4), [2, 2]) is None
