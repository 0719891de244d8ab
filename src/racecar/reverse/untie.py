"""An untied decoder: the reverse pass gets parameters of its own, of the shapes of the model's."""

from __future__ import annotations

from collections.abc import Set

from torch import fx

from racecar.errors import ArgumentError
from racecar.forward.graph import example, module_path, nodes_in
from racecar.reverse.builder import Builder


def untie(builder: Builder, parameters: Set[str]) -> tuple[str, ...]:
    """Let the reverse pass read the decoder's parameters: inputs of the programs after the model's weights.

    Args:
        builder: its graph, the reverse pass included.
        parameters: names of the model's weights that are no buffers.

    Returns:
        Names of the parameters, in the order of the inputs that were added.

    Raises:
        ArgumentError: the reverse pass uses a weight that the model computes from its parameters.
    """
    forward, graph, unmirrored = builder.forward, builder.graph, set(builder.nodes)
    weights = {
        node: name
        for name, node in zip(forward.weights, forward.weight_nodes, strict=False)  # constants follow the weights
        if name in parameters
    }
    following = (forward.weight_nodes[len(forward.weights) :] + forward.inputs)[0]
    decoder_nodes: dict[fx.Node, fx.Node] = {}
    for node in weights:
        with graph.inserting_before(following):
            decoder_nodes[node] = graph.placeholder(f"decoder_{node.name}")
        decoder_nodes[node].meta["example"] = example(node)
    for node in graph.nodes:
        if node in unmirrored or node.op == "output":
            continue
        for value in node.all_input_nodes:
            if value in unmirrored and value.op.startswith("call_") and value not in forward.data:
                _check_plain(value, weights.keys())
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda n: decoder_nodes.get(n, n))  # type: ignore[assignment]
    builder.nodes.extend(decoder_nodes.values())
    return tuple(weights.values())


def _check_plain(value: fx.Node, parameters: Set[fx.Node]) -> None:
    if not parameters.isdisjoint(nodes_in((value.args, value.kwargs))):
        raise ArgumentError(
            f"decoder: the reverse pass uses a weight computed from parameters ({value.target} in module "
            f"{module_path(value)!r}): an untied decoder needs plain parameters"
        )
