"""The pass that lets a program gather sharded weights where they are read, and nowhere else (:mod:`racecar.sharded`).

A layer's weights are gathered before an operation that reads them, one layer ahead, in the forward as in the reverse
pass, and freed after it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from racecar.passes.both import Recomputed, Replayed
from racecar.passes.segments import Segment
from racecar.rules.convolution import upsampled_adjoint
from racecar.rules.registry import layer_operations
from racecar.sharded import Gathering


def gather_where_read(program: fx.GraphModule, sharded: Mapping[int, int]) -> fx.GraphModule:
    """A training program whose sharded weights are gathered where they are read.

    Args:
        program: of (weights…, inputs…); it stays as it is.
        sharded: by the number of the argument, the position of a sharded weight among all weights.

    Returns:
        The same, with one more argument in front: the call's :class:`Gathering`.
    """
    graph = fx.Graph()
    call = graph.placeholder("gathering")
    graph.output(graph.graph_copy(program.graph, {}))
    inputs = graph.find_nodes(op="placeholder")[1:]
    weights = {inputs[argument]: position for argument, position in sharded.items()}
    gathered = fx.GraphModule(program, graph, class_name="Palindrome")
    _views_where_read(graph, weights)
    inside = _parts(gathered, call, weights)
    _insert(graph, call, weights, inside)
    gathered.recompile()
    return gathered


class _GatheredPart(nn.Module):
    def __init__(self, part: Segment | Recomputed | Replayed, sharded: Mapping[int, int]) -> None:
        super().__init__()
        self.part = copy.copy(part)
        self.part._modules = {"body": gather_where_read(part.body, sharded)}
        self.front = _in_front(part)

    def forward(self, gathering: Gathering, *values: Any) -> Any:
        return self.part(*values[: self.front], gathering, *values[self.front :])


def _in_front(part: nn.Module) -> int:
    """How many arguments are not its body's: a segment's set of those that run, the state of a generator."""
    return 0 if isinstance(part, Recomputed) else 1


def _views_where_read(graph: fx.Graph, weights: Iterable[fx.Node]) -> None:
    """Each operation has views of its own: one that two share would keep the weight whole between them."""
    for weight in weights:
        for view in [u for u in weight.users if _is_view(u)]:
            for user in list(view.users):
                with graph.inserting_before(user):
                    user.replace_input_with(view, graph.node_copy(view, lambda n: n))
            graph.erase_node(view)


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or len(node.all_input_nodes) != 1:
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is not None and not returns[0].alias_info.is_write


def _parts(program: fx.GraphModule, gathering: fx.Node, weights: Mapping[Any, int]) -> set[fx.Node]:
    """The parts of a divided program gather for themselves: the calls of those that read any."""
    found = set()
    for call in program.graph.find_nodes(op="call_module"):
        inside = {i: weights[a] for i, a in enumerate(call.args) if isinstance(a, fx.Node) and a in weights}
        part = program.get_submodule(call.target)
        if not inside or not isinstance(part, fx.GraphModule | Segment | Recomputed | Replayed):
            continue
        if not isinstance(part, fx.GraphModule):
            own = {i - _in_front(part): p for i, p in inside.items()}
            program.set_submodule(call.target, _GatheredPart(part, own))
        else:
            program.set_submodule(call.target, gather_where_read(part, inside))
        call.args = (gathering, *call.args)
        found.add(call)
    return found


def _insert(graph: fx.Graph, gathering: fx.Node, weights: Mapping[fx.Node, int], inside: set[fx.Node]) -> None:
    """Begin, wait, read, free; the next reader's weights are begun before those of the one before it are waited for."""
    lowered = layer_operations() | {upsampled_adjoint}
    readers = [
        (node, read)
        for node in graph.nodes
        if node not in inside and (read := [n for n in node.all_input_nodes if n in weights])
    ]
    before: fx.Node | None = None
    for node, read in readers:
        # What reads a view of a weight is what reads the weight.
        last = next(iter(node.users)) if _is_view(node) and len(node.users) == 1 else node
        with graph.inserting_before(before or node):
            begun = [
                graph.call_function(Gathering.begin, (gathering, weight, weights[weight], last.target in lowered))
                for weight in read
            ]
        with graph.inserting_before(node):
            whole = [graph.call_function(Gathering.whole, (gathering, b)) for b in begun]
        for weight, value in zip(read, whole, strict=True):
            node.replace_input_with(weight, value)
        before = whole[0]
        if node.op != "output":
            with graph.inserting_after(last):
                graph.call_function(Gathering.free, (gathering, *whole))
