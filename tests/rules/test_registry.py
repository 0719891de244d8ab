"""The contract between an operation and its reverse rule: what a rule is called with, and how often."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar import ReverseCall
from racecar.rules import registry


@pytest.fixture(autouse=True)
def _rules_of_a_test_go_with_it() -> Iterator[None]:
    saved = dict(registry._RULES)
    yield
    registry._RULES.clear()
    registry._RULES.update(saved)


def operation(function: Callable[..., Tensor]) -> Any:
    """A custom operation of a user's with a gradient, as ``torch.library`` makes them."""
    made = torch.library.custom_op(f"test_registry::{function.__name__}", function, mutates_args=())
    made.register_fake(function)
    return made


@operation
def scaled(x: Tensor, data: float, *, known: float = 1.0) -> Tensor:
    """Its arguments are called as the extras of rules once were."""
    return x * data * known


@operation
def blended(data: Tensor, known: Tensor, average: float) -> Tensor:
    return data * average + known * (1 - average)


for _op, _backward in (
    (scaled, lambda ctx, g: (g * ctx.factor, None, None)),
    (blended, lambda ctx, g: (g * ctx.factor, None, None)),
):

    def _keep(ctx: Any, inputs: Any, output: Any, keyword_only_inputs: Any = None) -> None:
        numbers = [i for i in inputs if isinstance(i, float)] + list((keyword_only_inputs or {}).values())
        ctx.factor = math.prod(numbers)

    _op.register_autograd(_backward, setup_context=_keep)


class Two(nn.Module):
    """A layer, an operation in between, a layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 6), nn.Linear(width, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))

    def back(self, h: Tensor) -> Tensor:
        """An estimate of the input from one of a's output."""
        return (h - self.a.bias) @ self.a.weight

    def start(self, x: Tensor) -> Tensor:
        """The estimate of b's input."""
        return (self(x) - self.b.bias) @ self.b.weight


def made(between: Callable[[Tensor], Tensor], width: int = 6) -> tuple[Two, Tensor]:
    torch.manual_seed(0)
    return Two(between, width).double(), torch.randn(5, 4, dtype=torch.float64)


# --- plain rules ------------------------------------------------------------------------------------------------------


def test_arguments_of_the_operation_may_be_called_as_one_likes() -> None:
    @racecar.register_reverse(torch.ops.test_registry.scaled.default)
    def scaled_back(estimate: Tensor, x: Tensor, data: float, *, known: float = 1.0) -> Tensor:
        return estimate / (data * known)

    net, x = made(lambda h: scaled(h, 2.0, known=3.0))
    pairs = racecar.Racecar(net, x).reconstruct(x)
    torch.testing.assert_close(pairs["a"][1], net.back(net.start(x) / 6))
    net, x = made(lambda h: scaled(h, 2.0))
    torch.testing.assert_close(racecar.Racecar(net, x).reconstruct(x)["a"][1], net.back(net.start(x) / 2))


def test_a_rule_may_call_the_operations_arguments_as_it_likes() -> None:
    racecar.register_reverse(torch.ops.aten.cosh.default, lambda estimate, data: estimate.clamp(min=1).acosh())
    net, x = made(torch.cosh)
    expected = net.back(net.start(x).clamp(min=1).acosh())
    torch.testing.assert_close(racecar.Racecar(net, x).reconstruct(x)["a"][1], expected)


def test_names_of_arguments_and_context_do_not_meet() -> None:
    """An operation whose arguments are called data, known and average, with a rule that asks for its context."""

    @racecar.register_reverse(torch.ops.test_registry.blended.default, context=True)
    def blended_back(
        estimate: Tensor, data: Tensor, known: Tensor, average: float, *, context: ReverseCall
    ) -> tuple[Tensor | None, ...]:
        assert context.estimated == (True, False)
        return (estimate - known * (1 - average)) / average, None

    shift = torch.randn(6, dtype=torch.float64)
    net, x = made(lambda h: blended(h, shift, 0.25))
    expected = net.back((net.start(x) - shift * 0.75) / 0.25)
    torch.testing.assert_close(racecar.Racecar(net, x).reconstruct(x)["a"][1], expected)


# --- rules that need the context --------------------------------------------------------------------------------------


def test_context_tells_what_is_to_be_estimated() -> None:
    seen: set[tuple[bool, ...]] = set()

    @racecar.register_reverse(torch.ops.aten.logaddexp.default, context=True)
    def back(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> tuple[Tensor | None, ...]:
        seen.add(context.estimated)
        assert (context.known, context.average) == ((None,), False)
        return tuple(estimate if wanted else None for wanted in context.estimated)

    shift = torch.randn(6, dtype=torch.float64)
    for between in (lambda h: torch.logaddexp(h, shift), lambda h: torch.logaddexp(shift, h), lambda h: h.logaddexp(h)):
        net, x = made(between)
        torch.testing.assert_close(racecar.Racecar(net, x).reconstruct(x)["a"][1], net.back(net.start(x)))
    assert seen == {(True, False), (False, True), (True, True)}


def masked_back(estimate: Tensor, x: Tensor, *, context: ReverseCall) -> Tensor:
    """Not the inverse: 1 where an entry of the estimate is known, -1 where it is not."""
    (known,) = context.known
    return torch.ones_like(estimate) if known is None else known.to(estimate.dtype).expand_as(estimate) * 2 - 1


def test_context_tells_what_is_known_of_the_estimate() -> None:
    racecar.register_reverse(
        torch.ops.aten.sinh.default, masked_back, context=True, informs=lambda estimate, x, *, context: estimate
    )
    whole, x = made(torch.sinh)
    torch.testing.assert_close(racecar.Racecar(whole, x).reconstruct(x)["a"][1], whole.back(torch.ones(5, 6).double()))
    part, x = made(lambda h: torch.sinh(h)[:, 1:3], 2)
    rr = racecar.Racecar(part, x, layers="all")
    rows = part.a.weight[1:3]
    expected = (torch.ones(5, 2).double() - part.a.bias[1:3]) @ rows
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], expected)
    for other in (copy.deepcopy(rr), torch.compile(rr, backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(other(x), rr(x))
    code = rr.program.palindrome.training.code
    assert "masked_back" in code
    assert "ReverseCall((True,), (known_" in code


def test_context_of_an_operation_with_several_outputs_has_a_mask_for_each() -> None:
    seen = []

    @racecar.register_reverse(torch.ops.aten.aminmax.default, context=True)
    def back(estimate: list[Tensor], x: Tensor, *, dim: int, keepdim: bool = False, context: ReverseCall) -> Tensor:
        seen.append([known is None for known in context.known])
        return (estimate[0] + estimate[1]).unsqueeze(dim).expand(x.shape)

    net, x = made(lambda h: torch.aminmax(h, dim=1)[1][:, None].expand(-1, 6))
    pairs = racecar.Racecar(net, x, layers="all").reconstruct(x)
    expected = net.back(net.start(x).mean(1, keepdim=True).expand(5, 6))
    torch.testing.assert_close(pairs["a"][1], expected)
    assert [False, True] in seen  # nothing comes back to the minimum: zeros in its place


def test_context_tells_of_attention() -> None:
    seen: list[bool] = []
    rule = registry.find_rule(torch.ops.aten.matmul.default)
    assert rule is not None

    def spy(estimate: Tensor, a: Tensor, b: Tensor, *, context: ReverseCall) -> Tensor:
        seen.append(context.average)
        return rule.reverse(estimate, a, b, context=context)

    racecar.register_reverse(torch.ops.aten.matmul.default, spy, layer="linear", operands=1, context=True)
    net, x = made(lambda h: torch.softmax(h @ h.mT, -1) @ h)
    racecar.Racecar(net, x)(x)
    assert set(seen) == {True}
    seen.clear()
    net, x = made(lambda h: h @ torch.ones(6, 6, dtype=h.dtype))
    racecar.Racecar(net, x)(x)
    assert set(seen) == {False}


def test_a_rule_is_asked_on_stand_ins_and_on_ones_and_zeros() -> None:
    """What the contract promises: fake tensors, tensors that know their size alone, float64 ones and zeros."""
    seen: set[str] = set()

    @racecar.register_reverse(torch.ops.aten.sinh.default)
    def back(estimate: Tensor, x: Tensor) -> Tensor:
        kind = type(x).__name__
        if kind == "Tensor" and x.dtype == torch.float64:
            seen.add("ones" if bool(estimate.any()) else "zeros")
            assert bool((x == 1).all())
        else:
            seen.add(kind)
        return estimate * x

    torch.manual_seed(0)
    net, x = Two(lambda h: torch.sinh(h)[:, 1:3], 2), torch.randn(5, 4)
    racecar.Racecar(net, x)
    assert seen == {"_Size", "FakeTensor", "ones", "zeros"}


# --- the deprecated keywords ------------------------------------------------------------------------------------------


def test_keywords_by_name_still_work_and_warn() -> None:
    def back(
        estimate: Tensor, a: Tensor, b: Tensor, data: tuple[bool, ...], known: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        assert known is None or known.dtype == torch.bool
        return tuple((estimate * 2 if known is None else estimate) if wanted else None for wanted in data)

    def decorated(estimate: Tensor, x: Tensor, *, average: bool) -> Tensor:
        return estimate

    op = torch.ops.aten.logaddexp.default
    informs = lambda estimate, a, b, data: tuple(estimate if wanted else None for wanted in data)  # noqa: E731
    with pytest.warns(DeprecationWarning, match=r"aten.logaddexp.default takes data, known .*context=True") as caught:
        assert racecar.register_reverse(op, back, informs=informs) is back
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="takes average") as caught:
        assert racecar.register_reverse(torch.ops.aten.sinh.default)(decorated) is decorated
    assert caught[0].filename == __file__
    shift = torch.randn(6, dtype=torch.float64)
    net, x = made(lambda h: torch.logaddexp(h, shift))
    rr = racecar.Racecar(net, x)
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], net.back(2 * net.start(x)))
    assert "back" in str(rr.explain())
    part, x = made(lambda h: torch.logaddexp(h, shift)[:, 1:3], 2)
    estimate = part.start(x)
    expected = (estimate - part.a.bias[1:3]) @ part.a.weight[1:3]
    torch.testing.assert_close(racecar.Racecar(part, x).reconstruct(x)["a"][1], expected)


def test_a_rule_of_several_outputs_gets_its_masks_in_a_list() -> None:
    def back(estimate: list[Tensor], x: Tensor, *, dim: int, keepdim: bool = False, known: Any = None) -> Tensor:
        assert isinstance(known, list)
        assert len(known) == 2
        return estimate[1].unsqueeze(dim).expand(x.shape)

    with pytest.warns(DeprecationWarning, match="takes known"):
        racecar.register_reverse(torch.ops.aten.aminmax.default, back)
    net, x = made(lambda h: torch.aminmax(h, dim=1)[1][:, None].expand(-1, 6))
    expected = net.back(net.start(x).mean(1, keepdim=True).expand(5, 6))
    torch.testing.assert_close(racecar.Racecar(net, x, layers="all").reconstruct(x)["a"][1], expected)


def test_only_the_deprecated_keywords_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = torch.ops.test_registry.scaled.default
        racecar.register_reverse(op, lambda estimate, x, data, *, known=1.0: estimate)
        racecar.register_reverse(op, lambda known, data, average, **kwargs: known)  # by position
        racecar.register_reverse(op, lambda estimate, *args, **kwargs: estimate)
        racecar.register_reverse(torch.ops.aten.sinh.default, lambda e, x, *, context, data=1: e, context=True)
        racecar.register_reverse(torch.ops.aten.sinh.default, torch._C._VariableFunctions.sinh)  # has no signature
