"""The graph under construction: calls are appended and evaluated on the example at once, as fake tensors.

Shapes and dtypes of every value are so known without memory or arithmetic, and a rule that fails does so here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from racecar.forward.graph import ForwardGraph, nodes_in
from racecar.reverse.size_only import reads_sizes_alone, size_of


class Emitter:
    """A forward graph, evaluated on an example, to which the reverse pass is appended.

    Args:
        forward: extended in place.
        model: the owner of the weights (only shapes and dtypes are read).
        inputs: the flattened example inputs.

    Attributes:
        nodes: of the forward pass, and the placeholders that were added.
        values: of weights and constants.
        segment: of the reverse pass, counted from the start on: what is appended belongs to it.
    """

    def __init__(self, forward: ForwardGraph, model: nn.Module, inputs: Sequence[Any]) -> None:
        self.forward, self.graph = forward, forward.graph
        self.nodes = [n for n in self.graph.nodes if n.op != "output"]
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.segment = 0
        self._sizes: dict[fx.Node, fx.Node] = {}  # stand-ins of values of which rules read the size alone
        self._run_example(model, inputs)

    def _run_example(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        values = [tensors[name] for name in self.forward.weights] + self.forward.constants
        self.values = dict(zip(self.forward.weight_nodes, values, strict=True))
        with torch.no_grad():
            for node, value in zip([*self.forward.weight_nodes, *self.forward.inputs], [*values, *inputs], strict=True):
                node.meta["example"] = self.fake.from_tensor(value.detach()) if isinstance(value, Tensor) else value
            for node in self.nodes:
                if node.op == "call_function":
                    node.meta["example"] = self.evaluate(node.target, node.args, node.kwargs)
                elif node.op == "call_module":  # the user's hooks: what they may change keeps its shape
                    node.meta["example"] = node.args[-1].meta["example"]

    def evaluate(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a call of a graph gives for the example."""
        args, kwargs = fx.map_arg((args, kwargs), lambda n: n.meta["example"])
        with self.fake, torch.no_grad():
            return function(*args, **kwargs)

    def emit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> fx.Node:
        """Append a call to the graph and evaluate it on the example."""
        example = self.evaluate(function, args, kwargs)
        node = self.graph.create_node("call_function", function, args, kwargs)
        node.meta["example"] = example
        node.meta[KEY] = self.segment
        return node

    def arguments(self, function: Any, estimate: Any, node: fx.Node, kwargs: Any) -> tuple[Any, ...]:
        """Those of the forward operation; of data that the rule reads for its size alone, a stand-in."""
        data = [n for n in dict.fromkeys(nodes_in(node.args)) if n in self.forward.data and n.op == "call_function"]
        data = [n for n in data if isinstance(n.meta["example"], Tensor) and n.meta["example"].ndim]
        given, kwargs = fx.map_arg((estimate, kwargs), lambda n: n.meta["example"])

        def works(values: list[fx.Node]) -> bool:
            def call(tells_size: Callable[[Tensor], Tensor]) -> object:
                sizes = {n: tells_size(n.meta["example"]) for n in values}
                args = fx.map_arg(node.args, lambda n: sizes[n] if n in sizes else n.meta["example"])
                with self.fake, torch.no_grad():
                    return function(given, *args, **kwargs)

            return reads_sizes_alone(call)

        if not data:
            return node.args
        sized = data if works(data) else [n for n in data if len(data) > 1 and works([n])]
        return fx.map_arg(node.args, lambda n: self._size(n) if n in sized else n)  # type: ignore[return-value]

    def _size(self, value: fx.Node) -> fx.Node:
        """The stand-in of a forward value, made where that is."""
        if value not in self._sizes:
            with self.graph.inserting_after(value):
                self._sizes[value] = self.graph.call_function(size_of, (value,))
            self._sizes[value].meta.update({k: value.meta[k] for k in ("example", "val") if k in value.meta})
        return self._sizes[value]


KEY = "segment"  # in the meta of every node of the reverse pass that belongs to one: its number, from the start on
