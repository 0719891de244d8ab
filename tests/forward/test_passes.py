"""The passes that clean an exported graph, each alone on a graph of torch.export's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from racecar.errors import ExportError
from racecar.forward.activations import fold_activations
from racecar.forward.checks import drop_checks
from racecar.forward.in_place import out_of_place
from racecar.forward.lift import lift
from racecar.forward.regions import inline_regions
from racecar.rules.activation import softsign, tanhshrink

aten = torch.ops.aten


class Function(nn.Module):
    """A function of one tensor as a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def exported(function: Callable[[Tensor], Tensor]) -> torch.export.ExportedProgram:
    return torch.export.export(Function(function), (torch.randn(3, 4),), strict=False)


def called(graph: fx.Graph) -> list[object]:
    return [n.target for n in graph.nodes if n.op == "call_function"]


def computed(graph: fx.Graph, x: Tensor) -> Tensor:
    (result,) = fx.GraphModule(nn.Module(), graph)(x)
    return result


def test_blocks_that_switch_a_mode_are_inlined_within_each_other_too() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.sin()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = y @ x.T
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (x.cos() + 1) * (y @ x)

    program = exported(forward)
    assert program.graph.find_nodes(op="get_attr")
    inline_regions(program.graph_module)
    assert not program.graph.find_nodes(op="get_attr")
    assert {aten.sin.default, aten.cos.default, aten.matmul.default} <= set(called(program.graph))
    x = torch.randn(3, 4, requires_grad=True)
    result = computed(program.graph, x)
    torch.testing.assert_close(result, forward(x), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(forward(x).sum(), x)[0])
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_a_sub_graph_of_another_kind_is_refused() -> None:
    program = exported(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, [x]))
    with pytest.raises(ExportError, match="holds a graph of its own"):
        inline_regions(program.graph_module)


def test_checks_are_dropped_and_nothing_else() -> None:
    program = exported(lambda x: x.to(torch.float64) * 2)
    assert any("_assert" in str(target) for target in called(program.graph))
    drop_checks(program.graph)
    assert called(program.graph) == [aten.to.dtype, aten.mul.Tensor]


@pytest.mark.parametrize(("function", "folded"), [(F.softsign, softsign), (F.tanhshrink, tanhshrink)])
def test_an_activation_that_torch_spells_out_becomes_one_operation(
    function: Callable[[Tensor], Tensor], folded: object
) -> None:
    graph = exported(lambda x: function(function(x))).graph
    assert len(called(graph)) > 2
    fold_activations(graph)
    assert called(graph) == [folded, folded]
    x = torch.randn(3, 4)
    torch.testing.assert_close(computed(graph, x), function(function(x)), rtol=0, atol=0)


def test_what_else_uses_a_part_of_an_activation_keeps_it() -> None:
    graph = exported(lambda x: (x - (t := torch.tanh(x))) + t).graph
    fold_activations(graph)
    assert called(graph) == [aten.tanh.default, tanhshrink, aten.add.Tensor]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / (x.abs() + 2),
        lambda x: x / (x.cos().abs() + 1),
        lambda x: x.sin() / (x.abs() + 1),
        lambda x: x / torch.add(x.abs(), 1, alpha=3),
        lambda x: x - x.sin().tanh(),
        lambda x: torch.sub(x, x.tanh(), alpha=2),
        lambda x: x.tanh() - x,
    ],
)
def test_what_only_resembles_an_activation_stays(function: Callable[[Tensor], Tensor]) -> None:
    graph = exported(function).graph
    before = called(graph)
    fold_activations(graph)
    assert called(graph) == before


def test_nothing_that_depends_on_the_input_is_changed_in_place() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        y[:, :2].relu_()
        noise = torch.ones(4)
        noise.mul_(3)
        return y.add_(1) * noise

    model = lift(exported(forward))
    out_of_place(model)
    operations = [t for t in called(model.graph) if isinstance(t, torch._ops.OpOverload)]
    assert [t for t in operations if str(t).split(".")[1].endswith("_")] == [aten.mul_.Tensor]
    x = torch.randn(3, 4)
    torch.testing.assert_close(computed(model.graph, x), forward(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda y: y.pow_(2), aten.pow.Tensor_Scalar),
        (lambda y: y.pow_(torch.full((4,), 2.0)), aten.pow.Tensor_Tensor),
        (lambda y: y.transpose_(0, 1), aten.transpose.int),
        (lambda y: y.floor_divide_(torch.full((4,), 0.5)), aten.floor_divide.default),
    ],
)
def test_the_form_out_of_place_may_have_another_name(function: Callable[[Tensor], Tensor], operation: object) -> None:
    model = lift(exported(lambda x: function(x.abs())))
    out_of_place(model)
    assert called(model.graph)[-1] is operation
    x = torch.randn(3, 4)
    torch.testing.assert_close(computed(model.graph, x), function(x.abs()), rtol=0, atol=0)
