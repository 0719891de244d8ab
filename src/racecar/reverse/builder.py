"""The palindrome's graph while it grows: calls are appended, and evaluated on the example at once, as fake tensors.

Shapes and dtypes of every value are so known without memory or arithmetic, and a rule that fails does so here.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from racecar.errors import ExportError
from racecar.forward.beside.values import device_of, standing_for, without_values
from racecar.forward.graph import ForwardGraph, example, function_of, nodes_in, operand, where
from racecar.reverse.size_only import reads_sizes_alone, size_of
from racecar.rules.reshapes import FOR_ANY_LAYOUT

_SEGMENT = "segment"


def segment(node: fx.Node) -> int | None:
    """The number of the segment of the reverse pass that a node belongs to; None: to none."""
    return node.meta.get(_SEGMENT)


class Builder:
    """Appends the reverse pass to a forward graph, call by call.

    Args:
        forward: extended in place.
        model: the owner of the weights (only shapes and dtypes are read).
        inputs: the flattened example inputs.

    Attributes:
        forward: the forward graph; ``graph`` is its graph, in which the palindrome grows.
        nodes: those of the forward pass in order, then the placeholders that were added since.
        values: tensors of the weight and constant placeholders.
        device: of the weights; while those are on the meta device, of the example.
    """

    def __init__(self, forward: ForwardGraph, model: nn.Module, inputs: Sequence[Any]) -> None:
        self.forward, self.graph = forward, forward.graph
        self.nodes = [n for n in self.graph.nodes if n.op != "output"]
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._segment: int | None = None
        self._sizes: dict[fx.Node, fx.Node] = {}  # stand-ins of values of which rules read the size alone
        self._known: dict[Any, Any] = {}  # what calls give, by what they are given: the layers of a network are alike
        self._run_example(model, inputs)

    def _run_example(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        values = [tensors[name] for name in self.forward.weights] + self.forward.constants
        self.values = dict(zip(self.forward.weight_nodes, values, strict=True))
        given = (v.device for v in values if isinstance(v, Tensor) and not v.is_meta)
        self.device = device = next(given, device_of(inputs))
        with torch.no_grad():
            for node, value in zip([*self.forward.weight_nodes, *self.forward.inputs], [*values, *inputs], strict=True):
                node.meta["example"] = self._faked(value, device) if isinstance(value, Tensor) else value
            for node in self.nodes:
                if node.op == "call_function":
                    node.meta["example"] = self._example(node, inputs)
                elif node.op == "call_module":  # the user's hooks: what they may change keeps its shape
                    node.meta["example"] = example(operand(node, -1))

    def _faked(self, value: Tensor, device: torch.device) -> Tensor:
        if not without_values(value):
            return self._fake.from_tensor(value.detach())
        with self._fake:
            return standing_for(value, device)

    def _example(self, node: fx.Node, inputs: Sequence[Any]) -> Any:
        """What a forward operation gives for the example; where its size depends on values, by computing them."""
        try:
            return self._evaluate(node.target, node.args, node.kwargs)
        except (DynamicOutputShapeException, DataDependentOutputException):
            pass
        try:
            value = self._computed(node, inputs)
        except Exception as error:
            raise ExportError(
                f"the size of what {where(node)} gives depends on values, and it cannot be computed for the example: "
                f"{error}"
            ) from error
        return pytree.tree_map_only(Tensor, self._fake.from_tensor, value)

    def _computed(self, node: fx.Node, inputs: Sequence[Any]) -> Any:
        """The value of a forward operation for the example, whose weights, buffers and random numbers stay."""
        needed, waiting = {node}, [node]
        while waiting:
            new = [n for n in waiting.pop().all_input_nodes if n not in needed]
            needed.update(new)
            waiting.extend(new)
        given = {**self.values, **dict(zip(self.forward.inputs, inputs, strict=True))}
        devices = list({v.device for v in given.values() if isinstance(v, Tensor) and v.is_cuda})
        values = {n: v.detach().clone() if isinstance(v, Tensor) else v for n, v in given.items() if n in needed}
        with torch.random.fork_rng(devices):
            for n in self.nodes:
                if n in needed and n.op == "call_module":
                    values[n] = values[operand(n, -1)]
                elif n in needed and n.op == "call_function":
                    args, kwargs = fx.map_arg((n.args, n.kwargs), values.__getitem__)
                    values[n] = n.target(*args, **kwargs)  # type: ignore[operator]
        return values[node]

    def _evaluate(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a call of the graph gives for the example."""
        args, kwargs = fx.map_arg((args, kwargs), example)
        if function is operator.getitem:
            return function(*args)

        def call() -> Any:
            with self._fake, torch.no_grad():
                return function(*args, **kwargs)

        changes = isinstance(function, torch._ops.OpOverload) and function._schema.is_mutable
        return call() if changes else self._once(call, function, args, kwargs)

    def _once(self, call: Callable[[], Any], *question: Any) -> Any:
        """What a call gives; of two that are given the same but for the values of tensors, the first one tells."""
        if (key := _metadata(question)) is None:
            return call()
        if key not in self._known:
            self._known[key] = call()
        return self._known[key]

    @contextlib.contextmanager
    def segment(self, number: int) -> Iterator[None]:
        """What is added inside belongs to the segment of this number (see :mod:`racecar.passes.segments`)."""
        outer, self._segment = self._segment, number
        try:
            yield
        finally:
            self._segment = outer

    def add(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> fx.Node:
        """Append a call of a function; nodes may stand in nests of tuples, lists and dicts among its arguments."""
        value = self._evaluate(function, args, kwargs)
        return self._noted(self.graph.create_node("call_function", function, args, kwargs), value)

    def again(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Append a forward operation once more, on other values of the same sizes (estimates of its operands)."""
        # An estimate need not lie in memory as the forward value does.
        function = FOR_ANY_LAYOUT.get(node.target, function_of(node))
        try:
            value = self._evaluate(function, args, kwargs)
        except DynamicOutputShapeException:  # its size depends on values, which are the forward ones
            value = example(node)
        return self._noted(self.graph.create_node("call_function", function, args, kwargs), value)

    def add_module(self, name: str, module: nn.Module, value: fx.Node) -> fx.Node:
        """Append a call of a module, which the programs then own under this name."""
        result = self._evaluate(module, (value,), {})
        self.forward.root.add_module(name, module)
        return self._noted(self.graph.call_module(name, (value,)), result)

    def _noted(self, node: fx.Node, value: Any) -> fx.Node:
        node.meta["example"] = value
        if self._segment is not None:
            node.meta[_SEGMENT] = self._segment
        return node

    def add_constant(self, value: Tensor, name: str) -> fx.Node:
        """A placeholder for a tensor that the programs are given at every call, on the device of the weights."""
        with self.graph.inserting_before(self.forward.inputs[0]):
            node = self.graph.placeholder(name)
        value = value.to(self.device)
        node.meta["example"] = self._fake.from_tensor(value)
        self.forward.constants.append(value)
        self.forward.weight_nodes.append(node)
        self.nodes.append(node)
        return node

    def arguments(self, function: Any, estimate: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, ...]:
        """What a rule or range map is called with after the estimate: the arguments of the forward operation.

        Of data that it reads for its size alone it gets a stand-in (:mod:`racecar.reverse.size_only`).

        Args:
            function: called as ``function(estimate, *arguments, **kwargs)``.
            estimate: a node, or a list of them.
            args: of the forward operation.
            kwargs: may hold nodes.
        """
        data = [n for n in dict.fromkeys(nodes_in(args)) if n in self.forward.data and n.op == "call_function"]
        data = [n for n in data if isinstance(example(n), Tensor) and example(n).ndim]
        given, kwargs = fx.map_arg((estimate, kwargs), example)

        def works(values: list[fx.Node]) -> bool:
            def call(tells_size: Callable[[Tensor], Tensor]) -> object:
                sizes = {n: tells_size(example(n)) for n in values}
                tensors = fx.map_arg(args, lambda n: sizes[n] if n in sizes else example(n))
                with self._fake, torch.no_grad():
                    return function(given, *tensors, **kwargs)

            places = [n in values for n in nodes_in(args)]
            looks = fx.map_arg(args, example)
            return bool(self._once(lambda: reads_sizes_alone(call), "sizes", places, function, given, looks, kwargs))

        if not data:
            return args
        sized = data if works(data) else [n for n in data if len(data) > 1 and works([n])]
        return fx.map_arg(args, lambda n: self._size(n) if n in sized else n)  # type: ignore[return-value]

    def _size(self, value: fx.Node) -> fx.Node:
        """The stand-in of a forward value, made where that is."""
        if value not in self._sizes:
            with self.graph.inserting_after(value):
                self._sizes[value] = self.graph.call_function(size_of, (value,))
            self._sizes[value].meta.update({k: value.meta[k] for k in ("example", "val") if k in value.meta})
        return self._sizes[value]


def _metadata(question: Any) -> Any:
    """What decides on shape and type of a call's results; None where the values of tensors may, too."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return None
    leaves, spec = pytree.tree_flatten(question)
    told: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            told.append((type(leaf), leaf))
        elif isinstance(leaf, FakeTensor) and leaf.constant is None and leaf.layout is torch.strided:
            told.append((leaf.shape, leaf.stride(), leaf.dtype, leaf.device))
        else:
            return None
    key = spec, tuple(told)
    try:
        hash(key)
    except TypeError:  # a slice, say
        return None
    return key if any(isinstance(leaf, Tensor) for leaf in leaves) else None
