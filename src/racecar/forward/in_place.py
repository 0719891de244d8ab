"""Operations in place made out of place: an activation L_m must survive until it is compared.

torch.export can do so itself (``ExportedProgram.run_decompositions``), but rewrites batch norm and dropout at the same
time, into forms that return running statistics and masks as further outputs. Here every other operation stays the one
that the model calls, which the rules know, and buffers are updated where the model updates them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from racecar.errors import ExportError
from racecar.forward.graph import ForwardGraph, data_nodes, module_path, operand, symbolic
from racecar.rules.shape import PUTS_BACK, written

aten = torch.ops.aten


def _schema(node: fx.Node) -> torch._C.FunctionSchema | None:
    return node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None


def _is_view(node: fx.Node) -> bool:
    schema = _schema(node)
    return bool(schema and any(r.alias_info and not r.alias_info.is_write for r in schema.returns))


def out_of_place(forward: ForwardGraph) -> None:
    """Replace ``relu_`` by ``relu`` and so on, and let whatever read the changed memory read the result.

    Only where the changed value depends on the network's input: updates of weights and buffers stay in place.

    Raises:
        ExportError: the operation has no other form, or its change is read through another view than it was made in.
    """
    state, data = set(forward.weight_nodes), data_nodes(forward)
    order = {node: i for i, node in enumerate(forward.graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}  # whose memory a view shows
    shown: dict[fx.Node, list[fx.Node]] = {}
    for node in list(forward.graph.nodes):
        schema = _schema(node)
        first = node.args[0] if node.args else None
        if schema is None or not isinstance(first, fx.Node):
            continue
        if _is_view(node):
            owner[node] = owner.get(first, first)
            shown.setdefault(owner[node], []).append(node)
        base = owner.get(first, first)
        if schema.is_mutable and base in state:
            owner[node] = base  # ema.mul_(0.9).add_(x): what the first returns is the buffer itself
        if not schema.is_mutable or base in state or data.isdisjoint([base, *node.all_input_nodes]):
            continue  # memory that the model has just made, such as a mask, is compared with nothing
        if not schema.name.endswith("_"):
            continue  # e.g. batch_norm: declared or not, it changes buffers only
        # Of the changed tensor itself the exported graph goes on with the result.
        later = {v: [u for u in v.users if order.get(u, -1) > order[node]] for v in (base, *shown.get(base, ()))}
        read = [u for users in later.values() for u in users]
        views = _views_between(base, first)
        if read and (views is None or any(users for v, users in later.items() if v not in (base, *views))):
            raise ExportError(
                f"{node.target} at {module_path(node) or 'the model'} changes a view in place and the change is read "
                f"through another tensor by {read[0].target}: write it without the in-place operation"
            )
        form = written if node.target is aten.copy_.default else _out_of_place_form(schema)
        if form is None:
            raise ExportError(f"no out-of-place form of {node.target} at {module_path(node) or 'the model'}")
        node.target = form
        if read:
            data.update(_scatter(node, base, views or [], later, order))


def _out_of_place_form(schema: torch._C.FunctionSchema) -> Callable[..., Any] | None:
    """The operation that computes the same out of place: of the same arguments; ``pow_.Scalar`` is not ``pow.Scalar``.

    The overload of the same name comes first, where there are several.
    """
    packet = getattr(aten, schema.name.removeprefix("aten::")[:-1], None)
    for overload in sorted(packet.overloads() if packet else (), key=(schema.overload_name or "default").__ne__):
        form = getattr(packet, overload)
        if not form._schema.is_mutable and _types(form._schema) == _types(schema):
            return form
    return None


def _types(schema: torch._C.FunctionSchema) -> list[str]:
    return [str(a.type) for a in schema.arguments]


def _views_between(base: fx.Node, view: fx.Node) -> list[fx.Node] | None:
    """The slices and selects that lead from some memory to a view of it, outermost first; None if there are others."""
    between: list[fx.Node] = []
    while view is not base:
        if view.target not in PUTS_BACK:
            return None
        between.insert(0, view)
        view = operand(view)
    return between


def _scatter(
    changed: fx.Node,
    base: fx.Node,
    views: list[fx.Node],
    later: dict[fx.Node, list[fx.Node]],
    order: dict[fx.Node, int],
) -> list[fx.Node]:
    """Put what was changed in a view back into copies of what it shows, for those that read them later: the copies."""
    graph, value, copies = changed.graph, changed, [changed]
    for view in reversed(views):
        for user in later.get(view, ()):
            if user is not changed:
                user.replace_input_with(view, value)
        with graph.inserting_after(value):
            value = graph.call_function(PUTS_BACK[view.target], (view.args[0], value, *view.args[1:]), view.kwargs)
        value.meta = {k: v for k, v in changed.meta.items() if k == "nn_module_stack"}
        value.meta["val"] = symbolic(operand(view))
        order[value] = order[changed]
        copies.append(value)
    for user in later[base]:
        user.replace_input_with(base, value)
    return copies
