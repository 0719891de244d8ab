"""The reverse pass cut in segments, one per compared value: recomputed instead of stored, or left out.

A segment ends where a compared value's estimate is found; it holds the distance to its forward twin too. With
``checkpoint`` it keeps its inputs alone and is computed again in the backward pass. With a ``Subset`` only those
segments run that the drawn layers need: in a chain all down to the deepest one, with ``layerwise`` little more than
their own.
"""

from __future__ import annotations

import operator
import random
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from racecar.reverse.builder import segment


class Subset:
    """Which k of n compared layers a call looks at.

    Attributes:
        segment_of: per compared layer the number of its segment.
        needs: per segment the numbers of those that it needs, itself included.
        running: numbers of the segments that the next call runs; None: all.
    """

    def __init__(self, size: int, segment_of: tuple[int, ...]) -> None:
        self.size, self.segment_of = size, segment_of
        self.needs: tuple[frozenset[int], ...] = ()
        self.running: frozenset[int] | None = None

    def draw(self, number: int) -> list[float]:
        """Choose: a weight per layer, n/k for those that were drawn, else 0, so that its mean over draws is 1.

        Args:
            number: of the draw, which is a function of it.
        """
        count = len(self.segment_of)
        chosen = set(random.Random(number).sample(range(count), self.size))
        self.running = frozenset().union(*(self.needs[self.segment_of[layer]] for layer in chosen))
        return [count / self.size if layer in chosen else 0.0 for layer in range(count)]


class Segment(nn.Module):
    """One segment as a module of the program."""

    def __init__(
        self, body: fx.GraphModule, outputs: int, number: int, recomputed: bool, subset: Subset | None
    ) -> None:
        super().__init__()
        self.body, self.outputs, self.number = body, outputs, number
        self.recomputed, self.subset = recomputed, subset

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Estimates and distances; zeros where the segment is left out."""
        if self.subset is not None and self.subset.running is not None and self.number not in self.subset.running:
            device = next(v.device for v in values if isinstance(v, Tensor))
            return (torch.zeros((), device=device),) * self.outputs
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(self.body, *values, use_reentrant=False, preserve_rng_state=False)
        return self.body(*values)


def divide(program: fx.GraphModule, *, recomputed: bool, subset: Subset | None) -> fx.GraphModule:
    """A training program that calls every segment of its reverse pass as a module; tells ``subset`` what they need."""
    members: dict[int, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if (number := segment(node)) is not None:
            members.setdefault(number, []).append(node)
    numbers = sorted(members)
    inside = {node: number for number in numbers for node in members[number]}
    after: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node not in inside and any(a in inside or a in after for a in node.all_input_nodes):
            after.add(node)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node not in inside and node not in after:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    root = nn.Module()
    for name, module in program.named_children():
        root.add_module(name, module)
    needs: dict[int, frozenset[int]] = {}
    for number in numbers:
        nodes = set(members[number])
        entering = list(dict.fromkeys(a for n in members[number] for a in n.all_input_nodes if a not in nodes))
        leaving = [n for n in members[number] if any(u not in nodes for u in n.users)]
        body = _extracted(program, members[number], entering, leaving)
        root.add_module(f"segment_{number}", Segment(body, len(leaving), number, recomputed, subset))
        call = graph.call_module(f"segment_{number}", tuple(copies[n] for n in entering))
        for position, node in enumerate(leaving):
            copies[node] = graph.call_function(operator.getitem, (call, position))
        others = {inside[n] for n in entering if n in inside}
        needs[number] = frozenset({number}).union(*(needs[other] for other in others))
    for node in program.graph.nodes:
        if node in after:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    if subset is not None:
        subset.needs = tuple(needs[n] for n in numbers)
    return fx.GraphModule(root, graph, class_name="Palindrome")


def _extracted(
    program: fx.GraphModule, nodes: list[fx.Node], entering: list[fx.Node], leaving: list[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {n: graph.placeholder(n.name) for n in entering}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = {}
    graph.output(tuple(copies[n] for n in leaving))
    return fx.GraphModule(program, graph, class_name="Segment")
