"""The tables of operations: real operations each, with the rules that their readers count on, and all of them here."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import racecar
from racecar import rules
from racecar.rules import aliases, creators, gates, normalization, pointwise, recurrent, reshapes, shape
from racecar.rules import complex as complex_numbers
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
        if isinstance(op, str):  # of a library that need not be there
            assert "::" in op
            continue
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
    for op in pointwise.FUNCTIONS | pointwise.CONDITIONS:
        assert find_rule(op) is None


@pytest.mark.parametrize("op", sorted(pointwise.POINTWISE, key=str), ids=str)
def test_pointwise_is_entry_by_entry(op: torch._ops.OpOverload) -> None:
    """Every entry of the result of a shuffled argument is that of the argument, shuffled."""
    x = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    named = {"rounding_mode": "floor"} if op is aten.div.Tensor_mode else {}
    torch.testing.assert_close(op(*arguments(op, x[order]), **named), op(*arguments(op, x), **named)[order])


def arguments(op: torch._ops.OpOverload, x: Tensor) -> Iterator[Any]:
    """Those that an operation needs: a tensor, a condition made of it, or a number."""
    extra = {aten.clamp.default: (0.3, 0.7), aten.to.dtype: (torch.float32,)}
    for a in op._schema.arguments:
        if a.kwarg_only or a.has_default_value() or str(a.type) not in ("Tensor", "number"):
            break
        if str(a.type) == "number" or a.name == "value":
            yield 0.5 if str(a.type) == "number" else torch.tensor(0.5, dtype=x.dtype)
        else:
            whether = a.name in ("condition", "mask") or "bitwise" in str(op) or "__" in str(op)
            yield x > 0.4 if whether else x
    yield from extra.get(op, ())


@pytest.mark.parametrize("alias", sorted(aliases.ALIASES, key=str), ids=str)
def test_an_alias_takes_the_same_arguments_and_gives_the_same(alias: torch._ops.OpOverload) -> None:
    op = aliases.ALIASES[alias]
    places, own = ([(str(a.type), a.kwarg_only) for a in o._schema.arguments] for o in (op, alias))
    assert places == own
    assert [str(r.type) for r in op._schema.returns] == [str(r.type) for r in alias._schema.returns]
    assert op not in aliases.ALIASES


def test_what_is_known_by_another_name_has_no_rule_of_its_own() -> None:
    assert not [alias for alias in {*aliases.ALIASES, *aliases.STACKS, *complex_numbers.PARTS} if find_rule(alias)]
    for op in set(aliases.ALIASES.values()) - pointwise.CONDITIONS - pointwise.FUNCTIONS - {aten.div.Scalar_mode}:
        rule(op)


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
