"""The tables of operations: real operations each, with the rules that their readers count on, and all of them here."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import racecar
from racecar import rules
from racecar.rules import creators, gates, normalization, pointwise, recurrent, reshapes, shape
from racecar.rules.registry import Rule, find_rule

aten = torch.ops.aten


def tables() -> Iterator[tuple[str, frozenset[object]]]:
    """Every public table of :mod:`racecar.rules`: a frozenset, or a dict from operations to something."""
    for info in pkgutil.iter_modules(rules.__path__):
        module = importlib.import_module(f"racecar.rules.{info.name}")
        for name, table in vars(module).items():
            if name.isupper() and not name.startswith("_") and isinstance(table, frozenset | dict):
                yield f"{info.name}.{name}", frozenset(table)


TABLES = dict(tables())


def rule(op: object) -> Rule:
    known = find_rule(op)
    assert known is not None, f"{op} has no rule"
    return known


def test_the_tables_are_seen() -> None:
    assert {"pointwise.POINTWISE", "reshapes.RESHAPES", "gates.GATES", "creators.CREATORS"} <= TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_overloads_as_a_graph_has_them(name: str) -> None:
    assert TABLES[name]
    for op in TABLES[name]:
        own = getattr(op, "__module__", "").startswith("racecar.rules.")  # an operation that the library itself puts in
        assert own or isinstance(op, torch._ops.OpOverload), f"{op!r} is no overload"
        assert own or not op._schema.is_mutable or op.overloadpacket in (aten.batch_norm, aten.instance_norm)


@pytest.mark.parametrize("op", sorted(reshapes.RESHAPES | reshapes.SQUEEZES, key=str), ids=str)
def test_a_reshape_only_moves_values(op: object) -> None:
    assert rule(op).range == "within"
    assert not rule(op).partial


def test_what_takes_any_layout_or_changes_nothing_keeps_the_range() -> None:
    for op, other in reshapes.FOR_ANY_LAYOUT.items():
        assert rule(op).reverse is rule(other).reverse
        assert other not in reshapes.FOR_ANY_LAYOUT
    for op in reshapes.UNCHANGED_IN_ITS_SHAPE:
        assert rule(op).range in ("through", "within")


def test_a_part_that_is_read_can_be_put_back() -> None:
    for read, put in shape.PUTS_BACK.items():
        assert rule(read).partial
        assert rule(put).partial


def test_gates_are_activations() -> None:
    assert gates.GATES < gates.BOUNDED
    for op in gates.BOUNDED:
        assert callable(rule(op).range)
        assert not normalization.is_norm(op)


@pytest.mark.parametrize("op", [aten.sigmoid.default, aten.hardsigmoid.default, aten.tanh.default], ids=str)
def test_bounds_are_bounds(op: torch._ops.OpOverload) -> None:
    values = op(torch.linspace(-50, 50, 99))
    assert values.abs().max() <= 1
    assert (values.min() >= 0) == (op in gates.GATES)


def test_matrix_products_are_mirrored_towards_one_operand() -> None:
    for op in gates.MATRIX_PRODUCTS:
        assert rule(op).layer == "linear"
        assert rule(op).operands == 1


def test_what_a_spelled_out_norm_ends_in_is_pointwise() -> None:
    assert pointwise.LAST_OF_SPELLED_OUT < pointwise.POINTWISE
    assert not pointwise.POINTWISE & pointwise.STATISTICS
    for op in pointwise.LAST_OF_SPELLED_OUT:
        rule(op)


@pytest.mark.parametrize("op", sorted(pointwise.POINTWISE, key=str), ids=str)
def test_pointwise_is_entry_by_entry(op: torch._ops.OpOverload) -> None:
    """Every entry of the result of a shuffled argument is that of the argument, shuffled."""
    x = torch.linspace(0.1, 2, 7, dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    tensors = sum(isinstance(a.type, torch.TensorType) and not a.has_default_value() for a in op._schema.arguments)
    extra = {"aten.pow": (3,), "aten.clamp": (0.5, 1.5), "aten.clamp_min": (0.5,), "aten.to": (torch.float32,)}
    rest = extra.get(str(op).rsplit(".", 1)[0], (2.0,) if str(op).endswith(".Scalar") else ())
    torch.testing.assert_close(op(*[x[order]] * tensors, *rest), op(*[x] * tensors, *rest)[order])


@pytest.mark.parametrize("op", sorted(normalization.NORMS, key=str), ids=str)
def test_a_norm_maps_estimates(op: object) -> None:
    assert callable(rule(op).range)
    assert normalization.is_norm(op)


def test_recurrent_kernels_give_way_to_operations_with_rules() -> None:
    for op in (*recurrent.KERNELS, *recurrent.CELLS):
        assert find_rule(op) is None
    for op in recurrent.LAYERS:
        assert rule(op).layer == "linear"
        assert rule(op).informs is not None


def test_nothing_comes_back_through_a_creator() -> None:
    assert not [op for op in creators.CREATORS | creators.ZEROS if find_rule(op)]
    assert aten.zeros_like.default in creators.CREATORS & creators.ZEROS


def literal(node: ast.AST) -> bool:
    """Whether an expression names an ATen operation: ``aten.relu.default``, ``torch.ops.aten.relu.default``."""
    return isinstance(node, ast.Attribute) and ast.unparse(node).removeprefix("torch.ops.").startswith("aten.")


def test_no_table_stands_anywhere_else() -> None:
    """Two lists of the same kind of operation come to differ."""
    library = Path(racecar.__file__).parent
    elsewhere = []
    for file in library.rglob("*.py"):
        if file.parent.name == "rules":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            members = node.elts if isinstance(node, ast.Set | ast.List | ast.Tuple) else getattr(node, "keys", None)
            if isinstance(members, list) and sum(map(literal, members)) > 1:
                elsewhere.append(f"{file.relative_to(library)}:{node.lineno}")
    assert not elsewhere
