"""Operations written in another way than the one that has the reverse rule, replaced by that one to the same bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from racecar.forward.graph import ForwardGraph, data_nodes, operand, symbolic
from racecar.rules.aliases import ALIASES, BY_NAME, STACKS
from racecar.rules.complex import PARTS, modulus, parts
from racecar.rules.registry import find_rule
from racecar.rules.reshapes import FOR_ANY_LAYOUT

aten = torch.ops.aten


def normal_forms(forward: ForwardGraph) -> None:
    """Give every operation the name and form under which it has a rule.

    Other names of an operation; ``x[x < 0] = 0``, which is a masked fill; parts and moduli of complex numbers; tensors
    put side by side; ``repeat_interleave`` with a constant number per entry, of which the size of the result is known.
    """
    both: dict[fx.Node, fx.Node] = {}
    data = data_nodes(forward)
    for node in list(forward.graph.nodes):
        if node.op != "call_function":
            continue
        node.target = ALIASES.get(node.target, node.target)
        if isinstance(node.target, torch._ops.OpOverload) and find_rule(node.target) is None:
            node.target = BY_NAME.get(node.target.name(), node.target)
        if node.target in PARTS:
            _part(node, both)
        elif node.target is aten.abs.default and _is_complex(node.args[0]):
            node.target = modulus
        elif node.target in FOR_ANY_LAYOUT and node in data:  # where the tracer saw another layout than a batch has
            node.target = FOR_ANY_LAYOUT[node.target]
        elif node.target is aten.view_as_real.default:
            node.target = parts
        elif node.target is aten.masked_select.default and _ndim(node.args[0]) == _ndim(node.args[1]):
            if symbolic(node.args[0]).shape == symbolic(node.args[1]).shape:  # type: ignore[arg-type]
                node.target, node.args = aten.index.Tensor, (node.args[0], [node.args[1]])
        elif node.target is aten.index_put.default:
            _fill(node)
        elif node.target in STACKS:
            dim, least = STACKS[node.target]
            if all(_ndim(t) >= least for t in node.args[0]):
                node.target, node.args = aten.cat.default, (node.args[0], dim)
        elif node.target is aten.repeat_interleave.self_Tensor:
            _size_of_repeats(node, forward)


def _part(node: fx.Node, both: dict[fx.Node, fx.Node]) -> None:
    """``x.real`` as one of the two parts of x, which are taken once; of a real x it is x itself."""
    x = operand(node)
    if not _is_complex(x):
        node.replace_all_uses_with(x)
        node.graph.erase_node(node)
        return
    if x not in both:
        with node.graph.inserting_before(node):
            both[x] = node.graph.call_function(parts, (x,))
        both[x].meta = {**node.meta, "val": parts(symbolic(x))}
    node.target, node.args = aten.select.int, (both[x], -1, PARTS[node.target])


def _fill(node: fx.Node) -> None:
    """``x[mask] = number`` as ``x.masked_fill(mask, number)``."""
    x, indices, values, *accumulate = node.args
    if any(accumulate) or len(indices) != 1 or _ndim(values) != 0:  # type: ignore[arg-type]
        return
    mask = indices[0]  # type: ignore[index]
    if getattr(symbolic(mask), "dtype", None) is torch.bool and _ndim(mask) == _ndim(x):  # type: ignore[arg-type]
        node.target, node.args = aten.masked_fill.Tensor, (x, mask, values)


def _size_of_repeats(node: fx.Node, forward: ForwardGraph) -> None:
    """Tell ``repeat_interleave`` the size of its result where the numbers of copies are a literal of the model."""
    if node.kwargs.get("output_size") is not None:
        return
    literals = dict(zip(forward.weight_nodes[len(forward.weights) :], forward.constants, strict=True))
    repeats: Any = node.args[1]
    while isinstance(repeats, fx.Node) and repeats not in literals and len(repeats.all_input_nodes) == 1:
        repeats = repeats.args[0]
    if repeats in literals:
        node.kwargs = {**node.kwargs, "output_size": int(literals[repeats].sum())}


def _is_complex(value: Any) -> bool:
    example = symbolic(value) if isinstance(value, fx.Node) else None
    return isinstance(example, Tensor) and example.is_complex()


def _ndim(value: Any) -> int:
    return symbolic(value).ndim if isinstance(value, fx.Node) else 0
