"""Operations that torch itself composes of others (``outer``, ``cosine_similarity``, ``diff``), written out in those.

Eager torch runs them so: values stay the same to the last bit, and the parts have reverse rules where the whole has
none. What has a rule, or a place in a table of the rules, stays whole, and so does what no layer follows (a loss that
the model computes itself): the reverse pass does not come by.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from racecar.forward.graph import ForwardGraph, data_nodes, symbolic
from racecar.rules.aliases import ALIASES, BY_NAME, STACKS
from racecar.rules.complex import PARTS
from racecar.rules.einsum import has_adjoint
from racecar.rules.pointwise import POINTWISE, STATISTICS
from racecar.rules.recurrent import CELLS, KERNELS
from racecar.rules.registry import find_rule

_READ_AS_THEY_ARE = frozenset({*ALIASES, *STACKS, *PARTS, *POINTWISE, *STATISTICS, *KERNELS, *CELLS})


def write_out(forward: ForwardGraph) -> None:
    """Replace every composed operation between the input and a layer that has no rule by what it is composed of."""
    data = data_nodes(forward)
    before_a_layer: set[fx.Node] = set()
    for node in list(reversed(forward.graph.nodes)):
        rule = find_rule(node.target)
        if node in before_a_layer or (rule is not None and rule.layer is not None):
            before_a_layer.update(node.all_input_nodes)
        if node in data and (node in before_a_layer or _is_other_einsum(node)) and is_composed(node):
            _replace(node)


def is_composed(node: fx.Node) -> bool:
    """Whether a call is of an operation without a rule that torch composes of others."""
    op = node.target
    return (
        isinstance(op, torch._ops.OpOverload)
        and op not in _READ_AS_THEY_ARE
        and op.name() not in BY_NAME
        and (find_rule(op) is None or _is_other_einsum(node))
        and not op._schema.is_mutable
        and op._can_decompose()
    )


def _is_other_einsum(node: fx.Node) -> bool:
    if node.target is not torch.ops.aten.einsum.default:
        return False
    equation, operands = node.args[:2]
    return not has_adjoint(equation, len(operands))  # type: ignore[arg-type]


def _replace(node: fx.Node) -> None:
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, fx.Node)]

    def composed(*values: Any) -> Any:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return node.target.decompose(*args, **kwargs)  # type: ignore[union-attr]

    values = [symbolic(leaves[i]) for i in places]
    try:
        with torch.no_grad():
            parts = make_fx(composed)(*values).graph
    except Exception:  # it looks at values: the operation stays, and is refused where it is on the way
        return
    if any(n.op == "get_attr" for n in parts.nodes):
        return
    inner = [n for n in parts.nodes if n.op == "placeholder"]
    copies = dict(zip(inner, [leaves[i] for i in places], strict=True))
    before = set(node.graph.nodes)
    with node.graph.inserting_before(node):
        result: Any = node.graph.graph_copy(parts, copies)
    for n in node.graph.nodes:
        if n not in before:
            n.meta = {**{k: v for k, v in node.meta.items() if k != "val"}, "val": n.meta.get("val")}
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):  # every user of several results is a getitem
            user.replace_all_uses_with(result[user.args[1]])
            node.graph.erase_node(user)
    node.graph.erase_node(node)
