"""An ``autograd.Function`` keeps its own backward pass, and is mirrored as the operations in it are."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionMeta

import racecar

X = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None


class Swish(torch.autograd.Function):
    """With three times its gradient, so that it can be told apart."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return 3 * gradient * s * (1 + x * (1 - s))


class Tanh(torch.autograd.Function):
    """The other way of writing one."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return 3 * gradient * (1 - y * y)


class Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, 2 * gradient.T @ x, gradient.sum(0)


class Outer(torch.autograd.Function):
    """Calls another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return Swish.apply(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 5 * gradient


class Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clone(), 2 * x

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a - b


swish = Swish.apply  # as people keep it, long before anything is derived


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, 3), forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def reversal(m: Any, x: Tensor) -> Any:
    h = torch.relu(m.a(x))
    return m.b(h), m.b(Reversed.apply(h, 0.5))


def two_heads(m: Any, x: Tensor) -> Any:
    h = torch.relu(m.a(x))
    return m.b(h), m.b(h.view_as(h))


# A forward, and the same with torch's operations.
KEPT: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Any]]] = {
    "gradient reversal": (reversal, two_heads),
    "an activation": (lambda m, x: m.b(swish(m.a(x))), lambda m, x: m.b(F.silu(m.a(x)))),
    "with a context of its own": (lambda m, x: m.b(Tanh.apply(m.a(x))), lambda m, x: m.b(torch.tanh(m.a(x)))),
    "changed in place": (
        lambda m, x: m.b(swish(m.a(x)).relu_()),
        lambda m, x: m.b(torch.relu(F.silu(m.a(x)))),
    ),
    "of a weight": (
        lambda m, x: m.b(torch.relu(F.linear(x, Signs.apply(m.a.weight), m.a.bias))),
        lambda m, x: m.b(torch.relu(F.linear(x, m.a.weight.sign(), m.a.bias))),
    ),
    "a layer": (
        lambda m, x: m.b(torch.relu(Linear.apply(x, m.a.weight, m.a.bias))),
        lambda m, x: m.b(torch.relu(m.a(x))),
    ),
    "one in another": (lambda m, x: m.b(Outer.apply(m.a(x))), lambda m, x: m.b(F.silu(m.a(x)))),
    "twice": (lambda m, x: m.b(swish(swish(m.a(x)))), lambda m, x: m.b(F.silu(F.silu(m.a(x))))),
}
OPTIONS = [{}, {"fraction": 0.5}, {"checkpoint": True}, {"subset": 1}, {"layerwise": True}]


def loss(output: Any) -> Tensor:
    return (
        sum((t.square().mean() for t in output), torch.zeros(()))
        if isinstance(output, tuple)
        else output.square().mean()
    )


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", KEPT)
def test_the_task_is_trained_by_its_own_backward(case: str, options: Any) -> None:
    model = Net(KEPT[case][0])
    rr = racecar.Racecar(model, X, layers="all", **options)
    for x in (X, X[:4] + 1):
        ours, theirs = gradients(model, loss(rr(x)[0])), gradients(model, loss(model(x)))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("case", KEPT)
def test_it_is_mirrored_as_what_is_in_it(case: str) -> None:
    with_function, without = (racecar.Racecar(Net(f), X, layers="all") for f in KEPT[case])
    pairs = with_function.reconstruct(X).values(), without.reconstruct(X).values()
    assert len(pairs[0]) >= 2
    for (value, estimate), (other, expected) in zip(*pairs, strict=True):
        torch.testing.assert_close(value, other)
        torch.testing.assert_close(estimate, expected)


def test_copied_and_pickled_it_is_still_there() -> None:
    model = Net(lambda m, x: m.b(swish(m.a(x))))
    rr = racecar.Racecar(model, X)
    other = copy.deepcopy(rr)
    for mine, theirs in zip(gradients(model, rr(X)[0].sum()), gradients(other.model, other(X)[0].sum()), strict=True):
        torch.testing.assert_close(mine, theirs)
    stored = pickle.loads(pickle.dumps(racecar.Racecar(Module(), X)))
    torch.testing.assert_close(gradients(stored, stored(X)[0].sum()), gradients(stored, stored.model(X).sum()))


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(swish(self.a(x)))


def test_a_decoder_is_refused_where_a_function_makes_the_weight() -> None:
    model = Net(KEPT["of a weight"][0])
    with pytest.raises(racecar.ArgumentError, match="computed from parameters"):
        racecar.Racecar(model, X, layers="all", decoder=copy.deepcopy(model))


def test_what_is_known_may_not_hang_on_such_a_weight() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        chosen = torch.where(Signs.apply(m.a.weight[0, :6]) > 0, m.a(x)[:, :6], 0)
        return F.linear(chosen, m.b.weight[:, :6])

    model = Net(forward)
    rr = racecar.Racecar(model, X, layers="all")
    with torch.no_grad():
        model.a.weight.neg_()
    mask = model.a.weight[0] > 0
    ours = rr.reconstruct(X)
    again = racecar.Racecar(model, X, layers="all").reconstruct(X)
    assert bool(mask.any())
    for mine, other in zip(ours.values(), again.values(), strict=True):
        torch.testing.assert_close(mine[1], other[1], equal_nan=True)


class Listed(torch.autograd.Function):
    """Of tensors in a list, which autograd does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, others: list[Tensor]) -> Tensor:
        return x + others[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


REFUSED: dict[str, Callable[[Any, Tensor], Any]] = {
    "Both": lambda m, x: m.b(sum(Both.apply(m.a(x)))),
    "InPlace": lambda m, x: m.b(InPlace.apply(m.a(x))),
    "Listed": lambda m, x: m.b(Listed.apply(m.a(x), [m.a(2 * x)])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_the_graph_cannot_call_is_refused(name: str) -> None:
    with pytest.raises(racecar.ExportError, match=rf"autograd.Function of its own.*{name}"):
        racecar.Racecar(Net(REFUSED[name]), X)
    assert "__getattribute__" not in vars(FunctionMeta)


def test_an_operation_may_give_a_parameter_no_gradient() -> None:
    """As one does whose parameter acts in the reverse pass alone."""

    @torch.library.custom_op("racecar_tests::beside", mutates_args=())
    def beside(x: Tensor, weight: Tensor) -> Tensor:
        return x.clone()

    beside.register_fake(lambda x, weight: torch.empty_like(x))
    beside.register_autograd(lambda _, gradient: (gradient, None))
    racecar.register_reverse(
        torch.ops.racecar_tests.beside.default, lambda estimate, x, weight: (estimate * weight, None), range="through"
    )

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.racecar_tests.beside(x, self.weight)

    model = nn.Sequential(nn.Linear(6, 4), Beside())
    layer, weight = model[0], model[1].weight
    _, penalty = racecar.Racecar(model, X, start="1")(X)
    expected = (X - (layer(X) * weight - layer.bias) @ layer.weight).square().mean() / 2
    torch.testing.assert_close(penalty, expected)
    found, wanted = (torch.autograd.grad(p, weight)[0] for p in (penalty, expected))
    torch.testing.assert_close(found, wanted)
