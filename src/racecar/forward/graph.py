"""The forward graph: what is known of a model's operations, and how to read a node.

A plain ``torch.fx`` graph of ATen operations. Its inputs are the model's parameters and buffers, looked up by name at
every call, then the flattened example inputs; it holds no tensor of its own. :mod:`racecar.forward.export` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from racecar.forward.beside.carried import Carried
from racecar.rules.creators import CREATORS, LIKE_ANOTHER


class Shapes:
    """What the model's Python code asked of its inputs' shapes while it was traced (``if x.shape[-1] > 8``)."""

    def __init__(self, values: list[Any]) -> None:
        import sympy  # which only a derivation needs

        dims: list[list[Any]] = [list(value.shape) if isinstance(value, Tensor) else [] for value in values]
        symbolic: list[Any] = [d.node for sizes in dims for d in sizes if isinstance(d, torch.SymInt)]
        self.guards = [g.expr for g in symbolic[0].shape_env.guards] if symbolic else []
        self.dims = [
            [d.node.expr if isinstance(d, torch.SymInt) else sympy.Integer(d) for d in sizes] for sizes in dims
        ]

    def batch_varies(self, leaves: list[Any]) -> list[bool]:
        """Per tensor with sizes whether the first may change: not if the model loops over it, as over time steps."""
        shaped = zip(self.dims, leaves, strict=True)
        return [bool(dims and dims[0].free_symbols) for dims, leaf in shaped if isinstance(leaf, Tensor) and leaf.ndim]

    def allow(self, leaves: list[Any]) -> bool:
        """Whether flattened inputs of these shapes would have been traced to the same graph."""
        return self.sizes(leaves) is not None

    def sizes(self, leaves: list[Any]) -> dict[Any, Any] | None:
        """The sizes that the symbols of the dimensions have for such inputs; None where the graph would be another."""
        import sympy

        known: dict[Any, Any] = {}
        for dims, leaf in zip(self.dims, leaves, strict=True):
            sizes = leaf.shape if isinstance(leaf, Tensor) else ()
            if len(sizes) != len(dims):
                return None
            for dim, size in zip(dims, sizes, strict=True):
                if dim.is_Symbol and dim not in known:
                    known[dim] = sympy.Integer(size)
                elif dim.xreplace(known) != size:
                    return None
        # A guard on a symbol that is no dimension of its own is one of the fixed dimensions compared above.
        return known if all(g.xreplace(known) for g in self.guards if g.free_symbols <= known.keys()) else None


@dataclass
class ForwardGraph:
    """The exported forward pass.

    Attributes:
        graph: placeholders are ``weights`` then ``inputs``; the output is the flat tuple of the model's outputs.
        weights: for each weight placeholder the qualified name in the model.
        constants: tensors written literally in the model's forward, by placeholder position after the weights.
        inputs: placeholders of the flattened user inputs.
        in_spec / out_spec: how inputs and outputs nest.
        shapes: which other shapes of the inputs take the same path through the model's Python code.
        carried: what the model keeps on itself, whose values follow its own outputs.
        numbers: positions of inputs that stand for numbers: coefficients, nothing to estimate.
        data: values that change with the network's input.
        coefficients: of a product of two activations the position of the one that is not estimated.
        averages: products whose coefficient is attention weights.
        pointwise: the last operation of a norm or activation spelled out → the value that it is a function of.
    """

    graph: fx.Graph
    weights: list[str]
    constants: list[Tensor]
    weight_nodes: list[fx.Node]
    inputs: list[fx.Node]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    outputs: list[Any]
    shapes: Shapes
    carried: Carried = field(default_factory=Carried)
    numbers: frozenset[int] = frozenset()
    data: set[fx.Node] = field(default_factory=set)
    coefficients: dict[fx.Node, int] = field(default_factory=dict)
    averages: set[fx.Node] = field(default_factory=set)
    pointwise: dict[fx.Node, fx.Node] = field(default_factory=dict)
    root: nn.Module = field(default_factory=nn.Module)

    def depends_on_input(self, value: object) -> bool:
        """Whether a graph value changes with the network's input."""
        return isinstance(value, fx.Node) and value in self.data

    @property
    def batch_symbols(self) -> set[Any]:
        """The symbols of the first dimensions of the inputs."""
        firsts = [symbolic(n).shape[0] for n in self.inputs if isinstance(symbolic(n), Tensor) and symbolic(n).ndim]
        return {symbol for s in firsts if isinstance(s, torch.SymInt) for symbol in s.node.expr.free_symbols}

    def copied(self) -> ForwardGraph:
        """The same as it was exported, to be mirrored for other sizes: mirroring extends a graph in place."""
        graph, root = fx.Graph(), nn.Module()
        copies: dict[fx.Node, fx.Node] = {}
        graph.output(graph.graph_copy(self.graph, copies))
        for name, module in self.root.named_children():
            root.add_module(name, module)
        return replace(
            self,
            graph=graph,
            weights=[*self.weights],
            constants=[*self.constants],
            weight_nodes=[copies[n] for n in self.weight_nodes],
            inputs=[copies[n] for n in self.inputs],
            outputs=[copies[o] if isinstance(o, fx.Node) else o for o in self.outputs],
            data={copies[n] for n in self.data},
            coefficients={},
            averages=set(),
            pointwise={},
            root=root,
        )


# --- reading a node ---------------------------------------------------------------------------------------------------


def example(node: fx.Node) -> Any:
    """What an operation gives for the example inputs: a fake tensor, a number, or a nest of such.

    Raises:
        KeyError: the graph has not been run on an example yet.
    """
    return node.meta["example"]


def symbolic(node: fx.Node) -> Any:
    """What torch.export has noted of a value: a fake tensor whose sizes are symbols where they may vary, or None."""
    return node.meta.get("val")


def operand(node: fx.Node, position: int = 0) -> fx.Node:
    """The value that stands at a position of a call.

    Raises:
        TypeError: something else stands there, such as a number.
    """
    value = node.args[position]
    if not isinstance(value, fx.Node):
        raise TypeError(f"argument {position} of {node.target} is {value!r} and no value of the graph")
    return value


def function_of(node: fx.Node) -> Callable[..., Any]:
    """The function that a call calls.

    Raises:
        TypeError: the node is no call of a function.
    """
    if not callable(node.target):
        raise TypeError(f"{node.name} ({node.op}) calls no function")
    return node.target


def module_path(node: fx.Node) -> str:
    """The module whose forward called the operation, e.g. ``"layer1.0.conv2"``; "" for the model itself."""
    stack = modules_around(node)
    return stack[-1][1] if stack else ""


def call_key(node: fx.Node) -> str:
    """Like :func:`module_path`, but different for every call of a module that is used several times."""
    stack = modules_around(node)
    return stack[-1][0] if stack else ""


def modules_around(node: fx.Node) -> list[tuple[str, str]]:
    """(call, path) of every module around the operation, outermost first, without the model itself."""
    entries = (node.meta.get("nn_module_stack") or {}).items()
    return [
        (key, value[0])
        for key, value in entries
        if isinstance(value, tuple) and value[0] and not key.startswith("_empty")
    ]


def nodes_in(value: Any) -> list[fx.Node]:
    """Every node in a nest of arguments, repeated ones repeated."""
    nodes: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        nodes.append(node)
        return node

    fx.map_arg(value, note)
    return nodes


def tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """The tensor arguments in the order of the call, repeated ones repeated."""
    return [n for n in nodes_in((node.args, node.kwargs)) if isinstance(example(n), Tensor | list | tuple)]


def shares_memory(node: fx.Node) -> bool:
    """Whether an operation returns memory that it was given: a view, or what it has changed in place."""
    schema = node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def data_nodes(forward: ForwardGraph) -> set[fx.Node]:
    """Values that change with the user's input; sizes and other numbers read off it are not data.

    Neither is a buffer that is updated in place: whoever reads it next reads a state of the model.
    """
    data = {node for i, node in enumerate(forward.inputs) if i not in forward.numbers}
    state = set(forward.weight_nodes)
    for node in forward.graph.nodes:
        is_tensor = isinstance(symbolic(node), Tensor | list | tuple)
        if node.op != "call_function" or not is_tensor or node.target in CREATORS:
            continue
        if node.args and node.args[0] in state and shares_memory(node):
            state.add(node)
        elif any(a in data for a in (node.args[:1] if node.target in LIKE_ANOTHER else node.all_input_nodes)):
            data.add(node)
    return data


def varying_nodes(forward: ForwardGraph, parameters: Container[str]) -> set[fx.Node]:
    """Values that may differ from call to call: of the inputs, of parameters, of random numbers, of a changing state.

    Args:
        forward: with its ``data``.
        parameters: the names of the model's parameters; its other weights are buffers, which are constants unless an
            operation of the graph changes them.
    """
    varying = {n for n, name in zip(forward.weight_nodes, forward.weights, strict=False) if name in parameters}
    varying.update(forward.inputs)
    varying.update(base for node in forward.graph.nodes if (base := changed_memory(node)) is not None)
    for node in forward.graph.nodes:
        if node.op == "call_module":
            varying.add(node)
        if node.op != "call_function" or not isinstance(symbolic(node), Tensor | list | tuple):
            continue  # sizes and other numbers do not vary with the values of what they are read off
        if node in forward.data or is_random(node) or not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
    return varying


def changed_memory(node: fx.Node) -> fx.Node | None:
    """The value whose memory a call changes in place, through whatever views."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable or not node.args:
        return None
    base: Any = node.args[0] if target is not torch.ops.aten.detach_.default else None
    while isinstance(base, fx.Node) and shares_memory(base):
        base = base.args[0]
    return base if isinstance(base, fx.Node) else None


def is_random(node: fx.Node) -> bool:
    """Whether a call draws random numbers."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def is_number(value: object) -> bool:
    """Whether a value (a node's example, say) is a tensor of floating-point or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def where(node: fx.Node, detail: str = "") -> str:
    """An operation and its module, for messages."""
    return f"{node.target}{detail} in module {module_path(node) or '(the model itself)'!r}"
