"""The reverse pass cut in segments, one per compared value: recomputed instead of stored, or left out.

A segment ends where a compared value's estimate is found; it holds the distance to its forward twin too. With
``checkpoint`` it keeps its inputs alone and is computed again in the backward pass. With a ``Subset`` only those
segments run that the drawn layers need: in a chain all down to the deepest one, with ``layerwise`` little more than
their own.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

from racecar.reverse.builder import segment

Needs = Mapping[int, frozenset[int]]


@dataclass(frozen=True)
class Draw:
    """The layers that one call compares.

    Attributes:
        weights: per compared layer n/k if it was drawn, else 0, so that the mean over draws is 1.
        segments: numbers of the segments of the reverse pass that have to run for them.
    """

    weights: tuple[float, ...]
    segments: frozenset[int]


@dataclass(frozen=True)
class Subset:
    """Which k of the n compared layers a call looks at.

    Attributes:
        size: k.
        segment_of: per compared layer the number of the segment in which it is estimated.
        needs: per segment the numbers of those that it needs, itself included.
    """

    size: int
    segment_of: tuple[int, ...]
    needs: Needs

    def draw(self, number: int) -> Draw:
        """Choose layers: a function of the number of the draw."""
        count = len(self.segment_of)
        drawn = set(random.Random(number).sample(range(count), self.size))
        weights = tuple(count / self.size if layer in drawn else 0.0 for layer in range(count))
        return Draw(weights, frozenset().union(*(self.needs[self.segment_of[layer]] for layer in drawn)))


class Segment(nn.Module):
    """One segment as a module of the program.

    Args:
        body: what it computes.
        number: of the segment.
        recomputed: in the backward pass, rather than kept for it.
    """

    def __init__(self, body: fx.GraphModule, number: int, recomputed: bool) -> None:
        super().__init__()
        self.body, self.number, self.recomputed = body, number, recomputed
        result = body.graph.output_node().args[0]
        self.outputs = len(result) if isinstance(result, tuple) else None

    def forward(self, running: frozenset[int] | None, *values: Any) -> Any:
        """Estimates and distances; zeros if the segment is not among those that run (None: all do)."""
        if running is not None and self.number not in running:
            zero = torch.zeros((), device=next(v.device for v in values if isinstance(v, Tensor)))
            return zero if self.outputs is None else (zero,) * self.outputs
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(self.body, *values, use_reentrant=False, preserve_rng_state=False)
        return self.body(*values)


def divide(program: fx.GraphModule, *, recomputed: bool) -> tuple[fx.GraphModule, Needs]:
    """Make every segment of a training program's reverse pass a module.

    Returns:
        The program, with one more input at the end, ``running``: the numbers of the segments that run, by default None
        for all; and per segment the numbers of those that it needs, itself included.
    """
    part_of, last = _parts(program.graph)
    split = split_module(program, nn.Module(), part_of.__getitem__, keep_original_order=True)
    graph = split.graph
    with graph.inserting_after(next(n for n in reversed(graph.nodes) if n.op == "placeholder")):
        running = graph.placeholder("running", default_value=None)
    needs: dict[int, frozenset[int]] = {}
    calls: dict[fx.Node, int] = {}  # of segments
    for call in graph.find_nodes(op="call_module"):
        part = int(call.target.rpartition("_")[2])  # submod_0, submod_1, …
        body = split.get_submodule(call.target)
        assert isinstance(body, fx.GraphModule)
        for node in body.graph.nodes:  # fake and symbolic tensors keep the tracer alive and cannot be copied
            node.meta = {}
        call.target = {0: "forward_pass", last: "distances"}.get(part, f"segment_{part - 1}")
        if 0 < part < last:
            split.add_module(call.target, Segment(body, part - 1, recomputed))
            sources = [n.args[0] if n.target is operator.getitem else n for n in call.all_input_nodes]
            needs[part - 1] = frozenset({part - 1}).union(*(needs[calls[s]] for s in sources if s in calls))
            calls[call] = part - 1
            call.args = (running, *call.args)
        else:
            split.add_module(call.target, body)
    return fx.GraphModule(split, graph, class_name="Palindrome"), needs


def _parts(graph: fx.Graph) -> tuple[dict[fx.Node, int], int]:
    """Part 0 is the forward pass, part 1 + i segment i, the last part what is made of their results.

    Moves what belongs to the forward pass before the first segment.

    Returns:
        The part of every node, and the number of the last part.
    """
    last = 2 + max(number for n in graph.nodes if (number := segment(n)) is not None)
    part_of: dict[fx.Node, int] = {}
    first: fx.Node | None = None  # of a segment
    for node in list(graph.nodes):
        number = segment(node)
        if number is not None:
            part_of[node], first = 1 + number, first or node
        elif any(part_of[a] for a in node.all_input_nodes):
            part_of[node] = last
        else:
            part_of[node] = 0
            if first is not None:
                first.prepend(node)
    return part_of, last
