"""The palindrome: the forward graph, the same operations backwards with the same weights, and the distances between.

Section 3 of the paper. ``build`` lets the graph be walked back from the start I_r to the network's input, and cuts the
programs out of what has grown: each layer's input L_m, its regenerated twin L'_m, the distance between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn

from racecar.errors import IrreversibleError
from racecar.explanation import Step
from racecar.forward.beside.quiet import errors_said_once
from racecar.forward.graph import ForwardGraph, module_path, nodes_in, varying_nodes
from racecar.forward.products import analyse
from racecar.options import Options
from racecar.reverse.again import Again
from racecar.reverse.builder import Builder
from racecar.reverse.known import known_share, unknown_as_nan
from racecar.reverse.layers import Plan, Selection
from racecar.reverse.masks import Masks
from racecar.reverse.narration import left_out, narrate
from racecar.reverse.reversal import Estimate
from racecar.reverse.untie import untie
from racecar.reverse.upsampled import merge_upsampling
from racecar.reverse.walk import Walk, Walked


@dataclass(frozen=True)
class Palindrome:
    """The programs of a mirrored forward graph, and what there is to say of them.

    Attributes:
        forward: (weights…, inputs…) → (flat outputs, n compared inputs L_m): the forward pass alone.
        training: (weights…, inputs…) → (flat outputs, distances [n]): forward, reverse and loss in one program.
        pairs: (weights…, inputs…) → n pairs (L_m, L'_m).
        layers: the n compared layers' names, from the network's input on.
        segment_of: for each of them the segment of the reverse pass in which its input is estimated.
        steps: the table of the palindrome, in forward order.
        start: the name of the operation whose output is I_r; with several, of each.
        left_out: names of the layers that are not mirrored, each with the reason.
        decoder: names of the weights that follow the model's own: those of an untied decoder, else none.
        sized: whether a mask fixes the sizes of the inputs: None, ``"shape"`` (all but the batch's) or ``"batch"``.
        again: what finds the masks for inputs of other sizes, where that can be.
    """

    forward: fx.GraphModule
    training: fx.GraphModule
    pairs: fx.GraphModule
    layers: tuple[str, ...]
    segment_of: tuple[int, ...]
    steps: tuple[Step, ...]
    start: str
    left_out: dict[str, str]
    decoder: tuple[str, ...]
    sized: Literal["shape", "batch"] | None = None
    again: Again | None = None


@errors_said_once()
def build(forward: ForwardGraph, model: nn.Module, inputs: Sequence[Any], options: Options) -> Palindrome:
    """Mirror an exported forward graph.

    Args:
        forward: from :func:`racecar.forward.export.export_forward`; its graph is extended in place.
        model: the owner of the weights (only shapes and dtypes are read).
        inputs: the flattened example inputs.
        options: what to compare and how.

    Raises:
        ArgumentError: unknown layer or start, or nothing can be mirrored.
        IrreversibleError: operations without a rule on the path, all of them listed.
        RuleError: a rule failed or returned a wrong shape.
    """
    builder = Builder(forward, model, inputs)
    analyse(forward, builder.nodes)
    selection = Selection(forward, builder.nodes, options)
    plan = selection.plan()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    masks = Masks(builder, varying_nodes(forward, parameters))
    walked = Walk(builder, masks, list(selection.names), options).back(
        plan.starts, plan.path, frozenset(plan.inputs.values()), plan.sums
    )
    merge_upsampling(builder.graph)
    compared = _regenerated(selection, plan, walked)
    distances = builder.add(torch.stack, [walked.distances[left] for left in compared.values()])
    pairs = tuple((left, _shown(builder, masks, walked.estimates[left])) for left in compared.values())
    decoder = untie(builder, parameters) if options.untied else ()
    outputs = tuple(forward.outputs)
    return Palindrome(
        forward=_program(builder, (outputs, tuple(compared.values()))),
        training=_program(builder, (outputs, distances)),
        pairs=_program(builder, pairs),
        layers=tuple(selection.names[layer] for layer in compared),
        segment_of=tuple(walked.segment_of[left] for left in compared.values()),
        steps=narrate(
            selection,
            walked.reversed,
            {layer: known_share(walked.estimates[left].known) for layer, left in compared.items()},
        ),
        start=", ".join(selection.names.get(n) or module_path(n) or n.name for n in plan.starts),
        left_out=left_out(selection, plan, walked.reversed),
        decoder=decoder,
        sized=masks.sized,
        again=masks.again(),
    )


def _regenerated(selection: Selection, plan: Plan, walked: Walked) -> dict[fx.Node, fx.Node]:
    """The compared layers to whose input an estimate came back; those that a user has named must be among them."""
    regenerated = {
        layer: left for layer, left in plan.inputs.items() if layer in walked.reversed and left in walked.estimates
    }
    without = [layer for layer in plan.inputs if layer not in regenerated]
    if without and (selection.by_name() or not regenerated):
        names = ", ".join(repr(selection.names[layer]) for layer in without)
        raise IrreversibleError(
            f"no estimate comes back to the input of {names}: what used it is not known to the reverse pass (the "
            "coefficient of a product, as queries, keys and gates are, or dropped by a select). Choose an earlier "
            "start= or other layers."
        )
    return regenerated


def _shown(builder: Builder, masks: Masks, estimate: Estimate) -> fx.Node:
    """An estimate to look at."""
    if estimate.known is None:
        return estimate.node
    return builder.add(unknown_as_nan, estimate.node, masks.node(estimate.known))


def _program(builder: Builder, output: Any) -> fx.GraphModule:
    """A program of its own: all forward operations (they may have effects), of the reverse what is used."""
    used: set[fx.Node] = {*builder.nodes, *nodes_in(output)}
    for node in reversed(builder.graph.nodes):
        if node in used:
            used.update(node.all_input_nodes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in builder.graph.nodes:
        if node.op != "output" and node in used:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(fx.map_arg(output, lambda n: copies[n]))
    return fx.GraphModule(builder.forward.root, graph, class_name="Palindrome")
