"""The loss of one layer: values and gradients against the written-out formula, what is kept for the backward pass."""

import pytest
import torch
from torch import Tensor

from racecar.options import Reduction
from racecar.reverse.loss import half_squared_distance

SHAPES = [(5,), (4, 3), (2, 3, 5, 4), (1, 1, 1, 1)]
MASKS = {"all known": None, "some known": torch.tensor([True, False, True])}


def written_out(left: Tensor, right: Tensor, reduction: Reduction, known: Tensor | None) -> Tensor:
    difference = left - right
    if known is not None:
        difference = difference[:, known]
    return 0.5 * (difference**2).sum() / (1 if reduction == "sum" else difference.numel())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_both_gradients(shape: tuple[int, ...], reduction: Reduction) -> None:
    torch.manual_seed(0)
    pair = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = half_squared_distance(*pair, reduction)
    expected = written_out(*pair, reduction, None)
    torch.testing.assert_close(found, expected)
    for mine, reference in zip(
        torch.autograd.grad(3 * found, pair), torch.autograd.grad(3 * expected, pair), strict=True
    ):
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_is_unknown_takes_no_part(reduction: Reduction) -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(4, 3, 2, dtype=torch.float64) for _ in range(2))
    right[:, 1] = torch.nan
    right.requires_grad_()
    known = torch.tensor([True, False, True])
    found = half_squared_distance(left, right, reduction, known[None, :, None])
    torch.testing.assert_close(found, written_out(left, right, reduction, known))
    (gradient,) = torch.autograd.grad(found, right)
    assert not gradient[:, 1].any()
    assert gradient[:, known].all()


def test_gradients_of_gradients() -> None:
    pair = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradgradcheck(lambda a, b: half_squared_distance(a, b) ** 2, pair)


def test_one_value_for_the_whole_batch_is_compared_with_every_sample() -> None:
    """L_m that does not depend on the batch, such as a position embedding."""
    left = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    right = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    found = half_squared_distance(left, right, "sum")
    torch.testing.assert_close(found, 0.5 * ((left - right) ** 2).sum())
    torch.testing.assert_close(torch.autograd.grad(found, left)[0], (left - right).sum(0, keepdim=True))


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)], ids=str)
def test_half_precision_is_summed_in_single(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(64, 1000).to(d).requires_grad_() for d in dtypes)
    found = half_squared_distance(left, right, "sum")
    assert found.dtype == torch.float32
    exact = 0.5 * (left.detach().double() - right.detach().double()).square().sum()
    assert abs(float(found.detach() / exact) - 1) < 1e-3  # the difference itself is rounded to half precision
    found.backward()
    assert (left.grad.dtype, right.grad.dtype) == dtypes  # type: ignore[union-attr]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("spread", [1.0, 0.0], ids=["random", "all alike"])
def test_a_large_half_precision_value_on_a_cpu_is_right_to_what_its_rounding_leaves(layout, spread) -> None:
    torch.manual_seed(0)
    left = (1.01 + spread * torch.randn(16, 32, 32, 32)).bfloat16().to(memory_format=layout).requires_grad_()
    right = torch.zeros_like(left).requires_grad_()
    found = half_squared_distance(left, right, "sum")
    exact = 0.5 * left.detach().double().square().sum()
    assert abs(float(found.detach() / exact) - 1) < (4e-4 if spread else 2 * 2**-9)
    (found * 3).backward()
    torch.testing.assert_close(left.grad, 3 * left.detach())
    torch.testing.assert_close(right.grad, -3 * left.detach())
    assert left.grad.is_contiguous(memory_format=layout)


def test_single_precision_is_enough_for_millions_of_entries() -> None:
    left = torch.randn(8, 1_000_000)
    exact = 0.5 * left.double().square().sum()
    assert abs(float(half_squared_distance(left, torch.zeros_like(left), "sum") / exact) - 1) < 5e-5


def test_vmap_gives_every_member_its_own() -> None:
    left, right = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    gradient = torch.func.grad(half_squared_distance, argnums=1)
    torch.testing.assert_close(torch.vmap(gradient)(left, right), (right - left) / 20)


def test_nothing_but_the_pair_is_kept() -> None:
    """The pair is kept by its layers; a difference would be one more tensor for every compared layer."""
    left, right = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        half_squared_distance(left, right)
    assert {v.data_ptr() for v in kept if v.numel() > 1} == {left.data_ptr(), right.data_ptr()}


def test_compiles_whole() -> None:
    left, right = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    compiled = torch.compile(half_squared_distance, fullgraph=True, backend="aot_eager")
    found, expected = compiled(left, right), half_squared_distance(left, right)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, right)[0] for v in (found, expected)))
