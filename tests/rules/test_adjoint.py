"""Every linear rule is the exact adjoint: ⟨A x, y − A 0⟩ = ⟨x, A* y⟩ for A x = A₀ x + bias, at the input's size."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule

aten = torch.ops.aten
few = settings(max_examples=60, deadline=None)
# torch says so once a process, in whichever test comes first.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CONV = {1: aten.conv1d, 2: aten.conv2d, 3: aten.conv3d}
TRANSPOSED = {
    1: aten.conv_transpose1d.default,
    2: aten.conv_transpose2d.input,
    3: aten.conv_transpose3d.input,
}


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def reverse(op: Any, estimate: Tensor, args: Sequence[Any], kwargs: Any = None, position: int = 0) -> Tensor:
    """Call the rule of ``op`` as the palindrome does, the tensor argument ``position`` being the data."""
    rule = find_rule(op)
    assert rule is not None
    tensors = [a for a in args if isinstance(a, Tensor)]
    kwargs = dict(kwargs or {})
    if rule.context:
        kwargs["context"] = racecar.ReverseCall(tuple(t is args[position] for t in tensors))
    back = rule.reverse(estimate, *args, **kwargs)
    if isinstance(back, tuple):  # one estimate per tensor, None for what is not the data
        (back,) = [b for b in back if b is not None]
    return back


def check_adjoint(op: Any, *args: Any, position: int = 0, **kwargs: Any) -> None:
    x = args[position]
    y = op(*args, **kwargs)
    zero = op(*args[:position], torch.zeros_like(x), *args[position + 1 :], **kwargs)  # the bias, broadcast
    estimate = torch.randn_like(y)
    back = reverse(op, estimate, args, kwargs, position)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    left, right = inner(y - zero, estimate - zero), inner(x, back)
    scale = float((y - zero).norm() * (estimate - zero).norm() + x.norm() * back.norm())
    assert abs(float(left - right)) <= 1e-12 * scale


# --- convolutions ---------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, ...]:
    """(op, x, weight, bias, stride, padding, dilation, groups)"""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    groups, fan_in, fan_out = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, dilation, stride = each(1, 4 if dims < 3 else 3), each(1, 3 if dims < 3 else 2), each(1, 3)
    kind = draw(st.sampled_from(("ints", "one int", "same", "valid")))
    padding: Any = each(0, 3)
    taken = padding
    if kind == "one int":
        padding = padding[:1]
        taken = padding * dims
    elif kind == "valid":
        padding, taken = "valid", [0] * dims
    elif kind == "same":
        padding, stride = "same", [1] * dims
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    least = [1] * dims if kind == "same" else [max(1, r + 1 - 2 * p) for r, p in zip(reach, taken, strict=True)]
    size = [low + more for low, more in zip(least, each(0, 5), strict=True)]
    op = CONV[dims].padding if isinstance(padding, str) else CONV[dims].default
    batch = draw(st.sampled_from(([2], [1], [])))  # also without a batch dimension
    x = rand(*batch, groups * fan_in, *size)
    weight = rand(groups * fan_out, fan_in, *kernel)
    bias = draw(st.sampled_from((None, rand(groups * fan_out), torch.zeros(groups * fan_out, dtype=x.dtype))))
    return op, x, weight, bias, stride, padding, dilation, groups


@few
@given(convolutions())
def test_convolution(case: tuple[Any, ...]) -> None:
    check_adjoint(*case)


@few
@given(convolutions())
def test_convolution_subtracts_the_bias_first(case: tuple[Any, ...]) -> None:
    op, x, weight, _, *rest = case
    bias = rand(weight.shape[0])
    estimate = rand(*op(x, weight, None, *rest).shape)
    shifted = estimate - bias.view(-1, *[1] * (weight.ndim - 2))
    with_bias = reverse(op, estimate, (x, weight, bias, *rest))
    without = reverse(op, shifted, (x, weight, None, *rest))
    torch.testing.assert_close(with_bias, without, rtol=0, atol=1e-12)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[Any, ...]:
    """(op, x, weight, bias, stride, padding, output_padding, groups, dilation)"""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    groups, fan_in, fan_out = (draw(st.integers(1, 3)) for _ in range(3))
    kernel, dilation, stride = each(1, 4 if dims < 3 else 3), each(1, 3 if dims < 3 else 2), each(1, 3)
    output_padding = [
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    ]  # may reach the stride where dilation is larger
    size = each(1, 4)
    full = [
        (n - 1) * s + d * (k - 1) + o + 1
        for n, s, d, k, o in zip(size, stride, dilation, kernel, output_padding, strict=True)
    ]
    padding = [draw(st.integers(0, min(2, (f - 1) // 2))) for f in full]
    x = rand(draw(st.integers(1, 2)), groups * fan_in, *size)
    weight = rand(groups * fan_in, fan_out, *kernel)
    bias = draw(st.sampled_from((None, rand(groups * fan_out))))
    return TRANSPOSED[dims], x, weight, bias, stride, padding, output_padding, groups, dilation


@few
@given(transposed_convolutions())
def test_transposed_convolution(case: tuple[Any, ...]) -> None:
    check_adjoint(*case)


@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv1d(4, 4, 4, padding="same", dilation=3, groups=2),
        lambda: nn.Conv2d(4, 6, (2, 3), stride=(3, 2), padding=(1, 0)),
        lambda: nn.Conv2d(4, 4, 3, padding="valid", dilation=2),
        lambda: nn.Conv2d(4, 4, (4, 2), padding="same", bias=False),
        lambda: nn.Conv3d(4, 4, 2, stride=2, padding=1),
        lambda: nn.ConvTranspose1d(4, 4, 3, stride=3, padding=1, output_padding=2),
        lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, dilation=3, output_padding=2),
        lambda: nn.ConvTranspose3d(4, 4, 2, stride=2, groups=2),
    ],
)
@pytest.mark.parametrize("size", [9, 12])
def test_the_modules_own_arguments_reach_the_rule(conv: Any, size: int) -> None:
    """conv → conv through the public interface: the regenerated input is the adjoint of both, biases subtracted."""
    torch.manual_seed(0)
    module = conv().double()
    dims = module.weight.ndim - 2
    x = rand(2, 4, *[size if dims < 3 else size - 4] * dims)
    rr = racecar.Racecar(module, x)
    ((taken, regenerated),) = rr.reconstruct(x).values()
    assert taken is x or torch.equal(taken, x)
    y = module(x)
    zero = module(torch.zeros_like(x))
    torch.testing.assert_close(inner(y - zero, y - zero), inner(x, regenerated), rtol=1e-10, atol=0)


# --- matrices -------------------------------------------------------------------------------------------------------


@few
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_linear(leading: list[int], fan_in: int, fan_out: int, biased: bool) -> None:
    bias = rand(fan_out) if biased else None
    check_adjoint(aten.linear.default, rand(*leading, fan_in), rand(fan_out, fan_in), bias)


MATMULS = {
    "matrix @ matrix": ((4, 3), (3, 2)),
    "batch @ matrix": ((5, 4, 3), (3, 2)),
    "batch @ batch": ((5, 4, 3), (5, 3, 2)),
    "matrix @ batch": ((4, 3), (5, 3, 2)),
    "broadcast batch": ((2, 1, 4, 3), (5, 3, 2)),
    "matrix @ vector": ((4, 3), (3,)),
    "batch @ vector": ((5, 4, 3), (3,)),
    "vector @ matrix": ((3,), (3, 2)),
    "vector @ batch": ((3,), (5, 3, 2)),
    "vector @ vector": ((3,), (3,)),
    "square": ((3, 3), (3, 3)),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("shapes", MATMULS.values(), ids=MATMULS)
def test_matmul(shapes: tuple[tuple[int, ...], ...], position: int) -> None:
    check_adjoint(aten.matmul.default, *(rand(*s) for s in shapes), position=position)


@pytest.mark.parametrize("position", [0, 1])
def test_mm_and_bmm(position: int) -> None:
    check_adjoint(aten.mm.default, rand(4, 3), rand(3, 3), position=position)
    check_adjoint(aten.bmm.default, rand(2, 4, 3), rand(2, 3, 5), position=position)


@pytest.mark.parametrize(("beta", "alpha"), [(1, 1), (0.5, 2), (0, -1.5)])
@pytest.mark.parametrize("bias", [(4, 2), (2,), (4, 1)])
def test_addmm(beta: float, alpha: float, bias: tuple[int, ...]) -> None:
    check_adjoint(aten.addmm.default, rand(*bias), rand(4, 3), rand(3, 2), position=1, beta=beta, alpha=alpha)


@pytest.mark.parametrize(("beta", "alpha"), [(1, 1), (0.5, 2), (0, -1.5)])
@pytest.mark.parametrize("position", [1, 2])
def test_baddbmm(beta: float, alpha: float, position: int) -> None:
    args = rand(1, 4, 2), rand(5, 4, 3), rand(5, 3, 2)
    check_adjoint(aten.baddbmm.default, *args, position=position, beta=beta, alpha=alpha)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_bilinear(leading: tuple[int, ...], position: int, biased: bool) -> None:
    bias = rand(2) if biased else None
    check_adjoint(aten.bilinear.default, rand(*leading, 4), rand(*leading, 3), rand(2, 4, 3), bias, position=position)


TENSORDOTS = {
    "matrices": ((4, 3), (3, 2), [1], [0]),
    "two": ((5, 4, 3), (4, 3, 2), [1, 2], [0, 1]),
    "crossed": ((5, 4, 3), (3, 2, 4), [2, 1], [0, 2]),
    "from the end": ((3, 5, 4), (2, 4, 3), [-1, 0], [-2, -1]),
    "everything": ((2, 3), (2, 3), [0, 1], [0, 1]),
    "nothing": ((2, 3), (4,), [], []),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", TENSORDOTS)
def test_tensordot(name: str, position: int) -> None:
    a, b, left, right = TENSORDOTS[name]
    check_adjoint(aten.tensordot.default, rand(*a), rand(*b), left, right, position=position)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("mode", "dims"), [(0, 2), (1, 2), (2, 2), (0, 3), (1, 3)])
def test_sampling_on_a_grid(mode: int, dims: int, padding: int, aligned: bool) -> None:
    x = rand(2, 3, *[5, 4, 6][:dims])
    grid = torch.rand(2, *[4, 3, 2][:dims], dims, dtype=torch.float64) * 2.6 - 1.3
    check_adjoint(aten.grid_sampler.default, x, grid, mode, padding, aligned)


def test_the_adjoint_of_sampling_has_gradients_of_its_own() -> None:
    x, grid = rand(1, 2, 4, 4), torch.rand(1, 3, 3, 2, dtype=torch.float64) * 2 - 1
    estimate = rand(1, 2, 3, 3).requires_grad_()
    grid.requires_grad_()
    rule = find_rule(aten.grid_sampler.default)
    assert rule is not None
    call = racecar.ReverseCall((True, False))
    assert torch.autograd.gradcheck(lambda e, g: rule.reverse(e, x, g, 0, 0, False, context=call), (estimate, grid))


class _Data(nn.Module):
    """The input multiplied from the side where the rules expect the weights; square, so that no shape gives it away."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.weight = nn.Linear(3, 3, bias=False), nn.Parameter(torch.randn(3, 3))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        match self.how:
            case "addmm":
                return torch.addmm(self.bias, self.weight, x)
            case "addmm bias":
                return torch.addmm(x, self.weight, self.weight)
            case "linear":
                return nn.functional.linear(self.weight, x)
            case "matmul":
                return self.weight @ x
            case "conv":
                return nn.functional.conv1d(self.weight[None], x[:, :, None])[0]
            case "div":
                return self.weight / x
        raise AssertionError(self.how)


@pytest.mark.parametrize("how", ["addmm", "addmm bias", "linear", "conv", "div"])
def test_data_in_an_unusual_place_is_refused_or_right(how: str) -> None:
    """Never a silently wrong reverse pass: an operation whose other argument is the data is right or an error."""
    torch.manual_seed(0)
    model = _Data(how).double()
    x = rand(3, 3)
    try:
        rr = racecar.Racecar(model, x, layers=["first"], start="")
    except racecar.RacecarError:
        return
    pairs = rr.reconstruct(x)
    hidden = model.first(x)
    function = lambda h: _tail(model, h)  # noqa: E731
    y, zero = function(hidden), function(torch.zeros_like(hidden))
    adjoint = torch.autograd.functional.vjp(function, hidden, y - zero)[1]
    torch.testing.assert_close(pairs["first"][1], adjoint @ model.first.weight)


def _tail(model: _Data, hidden: Tensor) -> Tensor:
    match model.how:
        case "addmm":
            return torch.addmm(model.bias, model.weight, hidden)
        case "addmm bias":
            return torch.addmm(hidden, model.weight, model.weight)
        case "linear":
            return nn.functional.linear(model.weight, hidden)
        case "conv":
            return nn.functional.conv1d(model.weight[None], hidden[:, :, None])[0]
    raise AssertionError(model.how)


# --- scalings -------------------------------------------------------------------------------------------------------

BROADCAST = {
    "same": ((2, 3, 4), (2, 3, 4)),
    "row": ((2, 3, 4), (4,)),
    "channel": ((2, 3, 4), (3, 1)),
    "data repeated": ((3, 1), (2, 3, 4)),
    "both": ((2, 1, 4), (3, 1)),
    "scalar tensor": ((2, 3), ()),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("shapes", BROADCAST.values(), ids=BROADCAST)
def test_multiplication(shapes: tuple[tuple[int, ...], ...], position: int) -> None:
    args = [rand(*s) for s in shapes]
    check_adjoint(aten.mul.Tensor, *(args if position == 0 else args[::-1]), position=position)


@pytest.mark.parametrize("shapes", BROADCAST.values(), ids=BROADCAST)
def test_division(shapes: tuple[tuple[int, ...], ...]) -> None:
    check_adjoint(aten.div.Tensor, rand(*shapes[0]), rand(*shapes[1]).abs() + 1)


@pytest.mark.parametrize("op", [aten.addcmul.default, aten.addcdiv.default])
@pytest.mark.parametrize("shapes", BROADCAST.values(), ids=BROADCAST)
def test_a_bias_and_a_scaling(op: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = rand(*shapes[0]), rand(*shapes[1]).abs() + 1
    bias = rand(max(shapes)[-1])
    check_adjoint(op, bias, a, b, position=1, value=-0.5)
    if op is aten.addcmul.default:
        check_adjoint(op, bias, b, a, position=2, value=-0.5)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("shapes", BROADCAST.values(), ids=BROADCAST)
def test_a_blend_with_a_constant(shapes: tuple[tuple[int, ...], ...], position: int) -> None:
    args = [rand(*s) for s in shapes]
    given = args if position == 0 else args[::-1]
    check_adjoint(aten.lerp.Scalar, *given, 0.3, position=position)
    check_adjoint(aten.lerp.Tensor, *given, torch.rand(given[0].shape, dtype=torch.float64), position=position)


def test_scalars() -> None:
    for op in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        check_adjoint(op, rand(2, 3), -2.5)
    check_adjoint(aten.neg.default, rand(2, 3))
    for op in (aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar):
        check_adjoint(op, rand(2, 3), 0.75)
    check_adjoint(aten.rsub.Scalar, rand(2, 3), 0.75)


@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor])
@pytest.mark.parametrize("position", [0, 1])
def test_a_constant_summand_is_a_bias(op: Any, position: int) -> None:
    args = (rand(2, 3), rand(3)) if position == 0 else (rand(3), rand(2, 3))
    check_adjoint(op, *args, position=position)


# --- moving values --------------------------------------------------------------------------------------------------


@few
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5).flatmap(
        lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))
    )
)
def test_permute(case: tuple[list[int], list[int]]) -> None:
    shape, order = case
    check_adjoint(aten.permute.default, rand(*shape), order)
    check_adjoint(aten.permute.default, rand(*shape), [d - len(shape) for d in order])
    check_adjoint(aten.transpose.int, rand(*shape), order[0], order[-1] - len(shape))
    check_adjoint(aten.movedim.intlist, rand(*shape), list(range(len(shape))), order)
    half = len(shape) // 2
    check_adjoint(aten.movedim.intlist, rand(*shape), order[:half], list(range(half)))


RESHAPES = [
    (aten.view.default, ([6, 4],)),
    (aten.reshape.default, ([2, -1],)),
    (aten._unsafe_view.default, ([24],)),
    (aten.flatten.using_ints, (1,)),
    (aten.flatten.using_ints, ()),
    (aten.unflatten.int, (3, [2, 2])),
    (aten.unsqueeze.default, (-1,)),
    (aten.squeeze.default, ()),
    (aten.squeeze.dim, (1,)),
    (aten.squeeze.dims, ([1, 2],)),
    (aten.mT.default, ()),
    (aten.pixel_shuffle.default, (1,)),
]


@pytest.mark.parametrize(("op", "args"), RESHAPES, ids=lambda v: str(v))
def test_reshapes(op: Any, args: tuple[Any, ...]) -> None:
    check_adjoint(op, rand(2, 1, 3, 4), *args)


def test_transposes_of_matrices() -> None:
    for op in (aten.t.default, aten.numpy_T.default, aten.mT.default):
        check_adjoint(op, rand(2, 3))
    check_adjoint(aten.t.default, rand(3))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_shuffles(factor: int) -> None:
    check_adjoint(aten.pixel_shuffle.default, rand(2, 2 * factor**2, 3, 2), factor)
    check_adjoint(aten.pixel_shuffle.default, rand(2 * factor**2, 3, 2), factor)
    check_adjoint(aten.pixel_unshuffle.default, rand(2, 3, 2 * factor, 4 * factor), factor)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_cat_and_stack(dim: int) -> None:
    pieces = [rand(2, 3, 4), rand(2, 3, 4), rand(2, 3, 4)]
    for op in (aten.cat.default, aten.stack.default):
        y = op(pieces, dim)
        estimate = torch.randn_like(y)
        rule = find_rule(op)
        assert rule is not None
        back = rule.reverse(estimate, pieces, dim)
        assert [b.shape for b in back] == [p.shape for p in pieces]
        total = sum(inner(p, b) for p, b in zip(pieces, back, strict=True))
        torch.testing.assert_close(inner(y, estimate), total)
    uneven = [rand(2, 3, n) for n in (1, 4, 2)]
    rule = find_rule(aten.cat.default)
    assert rule is not None
    back = rule.reverse(aten.cat.default(uneven, -1), uneven, -1)
    assert all(torch.equal(b, p) for b, p in zip(back, uneven, strict=True))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_split_and_unbind(dim: int) -> None:
    x = rand(4, 6, 6)
    n = x.shape[dim]
    for op, args in (
        (aten.split.Tensor, (x, 4, dim)),
        (aten.split.sizes, (x, [1, n - 3, 2], dim)),
        (aten.split_with_sizes.default, (x, [n - 1, 1], dim)),
        (aten.chunk.default, (x, 2, dim)),
        (aten.unbind.int, (x, dim)),
    ):
        rule = find_rule(op)
        assert rule is not None
        assert torch.equal(rule.reverse(list(op(*args)), *args), x)


@few
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.data(),
)
def test_zero_padding(shape: list[int], amounts: list[int], data: st.DataObject) -> None:
    pad = amounts[: 2 * data.draw(st.integers(1, len(shape)))]
    check_adjoint(aten.pad.default, rand(*shape), pad, "constant", 0.0)
    check_adjoint(aten.pad.default, rand(*shape), pad)


def test_negative_padding_crops_and_its_adjoint_pads() -> None:
    check_adjoint(aten.pad.default, rand(2, 5, 6), [-1, 2, 1, -2])


def test_a_mean_is_handed_back_to_every_place() -> None:
    """Pooling is not reversed by its adjoint (1/n at each place) but by upsampling."""
    x = rand(2, 3, 4, 5)
    rule = find_rule(aten.mean.dim)
    assert rule is not None
    for dims, keep in (([2, 3], False), ([-1, -2], True), ([0], False), ([1, 3], False)):
        y = aten.mean.dim(x, dims, keep)
        expected = x.mean(dims, keepdim=True).expand(x.shape)
        assert torch.equal(rule.reverse(y, x, dims, keep), expected)
    assert torch.equal(rule.reverse(x.mean(), x, None), x.mean().expand(x.shape))
    assert math.prod(rule.reverse(x.mean(), x, None).shape) == x.numel()


@pytest.mark.parametrize("position", [1, 2])
def test_addbmm_and_addmv(position: int) -> None:
    check_adjoint(aten.addbmm.default, rand(3, 5), rand(4, 3, 2), rand(4, 2, 5), beta=0.5, alpha=2.0, position=position)
    check_adjoint(aten.addmv.default, rand(3), rand(3, 4), rand(4), beta=0.5, alpha=2.0, position=position)


@pytest.mark.parametrize("position", [0, 1])
def test_dot(position: int) -> None:
    check_adjoint(aten.dot.default, rand(5), rand(5), position=position)
