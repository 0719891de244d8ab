"""Recurrent networks in the exported graph: one operation per layer and direction, in place of one per module.

``torch.export`` keeps ``nn.LSTM`` and its like as one operation, however many layers it has. Here every layer, and of a
bidirectional one every direction, becomes an operation of its own with a name (``"lstm.0"``, ``"lstm.0.reverse"``,
``"lstm.1"``, …), so that its input is an L_m. PyTorch's own kernels still compute the forward pass, one call per layer
with both directions. What these operations are in the reverse pass stands in :mod:`racecar.rules.recurrent`.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch._decomp.decompositions
from torch import Tensor, fx

from racecar.errors import ExportError
from racecar.forward.graph import ForwardGraph, symbolic
from racecar.rules.creators import ZEROS
from racecar.rules.recurrent import (
    CELLS,
    KERNELS,
    Kind,
    LayerCall,
    gru_layer,
    lstm_layer,
    lstm_layer_and_cell,
    rnn_layer,
    rnn_output,
)

aten = torch.ops.aten


@contextlib.contextmanager
def states_in_shape() -> Iterator[None]:
    """While it lasts, the tracer gives the last states of an LSTM their shape: in torch 2.11 it adds a dimension."""
    module: Any = torch._decomp.decompositions
    plain = module.one_layer_lstm

    def one_layer_lstm(x: Tensor, states: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        outputs, last = plain(x, states, *args, **kwargs)
        return outputs, tuple(s.reshape(first.shape) for s, first in zip(last, states, strict=True))

    module.one_layer_lstm = one_layer_lstm
    try:
        yield
    finally:
        module.one_layer_lstm = plain


def one_operation_per_layer(forward: ForwardGraph) -> None:
    """Rewrite the recurrent modules and cells of an exported graph, in place.

    Raises:
        ExportError: the model uses the last cell state of an LSTM with ``proj_size``.
    """
    for node in list(forward.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in KERNELS:
            _Rewriter(forward, node).module(KERNELS[node.target])
        elif node.target in CELLS:
            _Rewriter(forward, node).cell(CELLS[node.target])


_OPERATIONS: dict[Kind, Callable[..., Any]] = {
    "tanh": rnn_layer,
    "relu": rnn_layer,
    "gru": gru_layer,
    "lstm": lstm_layer,
}


class KernelCall(NamedTuple):
    """The operands of a recurrent module's kernel, such as ``aten.lstm.input``, in their order.

    Attributes:
        x: the module's input.
        state: the initial hidden states of all layers and directions; of an LSTM a list of these and the cell states.
        parameters: per layer and direction w_ih, w_hh, b_ih and b_hh if it has biases, w_hr if it projects.
        has_biases: whether there are b_ih and b_hh.
        layers: how many, one after the other.
        dropout: its probability between layers.
        train: whether there is dropout at all.
        bidirectional: whether every layer reads its input in both directions.
        batch_first: whether sequences are (N, T, …).
    """

    x: Any
    state: Any
    parameters: Any
    has_biases: Any
    layers: Any
    dropout: Any
    train: Any
    bidirectional: Any
    batch_first: Any


class _Rewriter:
    """Replaces one node; every node that it makes stands right after it, in the order of making."""

    def __init__(self, forward: ForwardGraph, node: fx.Node) -> None:
        self.forward, self.graph, self.node = forward, forward.graph, node
        self.next = node.next
        self.made: set[fx.Node] = set()

    def make(self, target: Any, *args: Any, val: Any = None, layer: str | None = None) -> fx.Node:
        """A call with the value's symbolic shape and the module it belongs to; ``layer`` names a part of that."""
        with self.graph.inserting_before(self.next):
            new = self.graph.call_function(target, args)
        if val is None:
            val = target(*fx.map_arg(args, symbolic))
        stack = dict(self.node.meta.get("nn_module_stack") or {})
        if layer is not None:
            entries = [(key, value[0]) for key, value in stack.items() if isinstance(value, tuple)]
            key, path = entries[-1] if entries else ("", "")
            stack[f"{key}.{layer}"] = (f"{path}.{layer}" if path else layer, "")
        new.meta.update(val=val, nn_module_stack=stack)
        self.made.add(new)
        return new

    def used(self, value: fx.Node | None) -> bool:
        """Whether the model computes with a value, more than to return it."""
        return value is not None and any(u.op != "output" for u in value.users)

    def replace(self, old: fx.Node | None, new: fx.Node) -> None:
        """Let everything but the nodes made here use another value."""
        if old is None:
            return
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in self.made)
        self.forward.outputs = [new if o is old else o for o in self.forward.outputs]

    def module(self, kind: Kind) -> None:
        """One layer of operations after the other; dropout between them, as in the kernel."""
        kernel = KernelCall(*self.node.args)
        states = list(kernel.state) if kind == "lstm" else [kernel.state]
        directions = 2 if kernel.bidirectional else 1
        per = len(kernel.parameters) // (kernel.layers * directions)
        returned: dict[Any, fx.Node] = {u.args[1]: u for u in self.node.users if u.target is operator.getitem}
        y_n, h_n, c_n = (returned.get(i) for i in range(3))
        with_hidden, with_cell = self.used(h_n), self.used(c_n)
        time = 1 if kernel.batch_first else 0
        x = kernel.x
        ends: list[fx.Node] = []
        cells: list[fx.Node] = []
        runs: list[fx.Node] = []
        for k in range(kernel.layers):
            parameters = list(kernel.parameters[k * directions * per : (k + 1) * directions * per])
            run = self.node if kernel.layers == 1 else self._run(kernel, x, states, parameters, k, directions)
            runs.append(run)
            if k + 1 == kernel.layers:  # before y, so that the module's output is its last operation
                self._states(returned, runs, (with_hidden, with_cell))
            hidden = self.make(operator.getitem, run, 0)
            size = symbolic(hidden).shape[-1] // directions
            outputs = []
            for d in range(directions):
                place = k * directions + d
                own: Any = hidden
                if directions == 2:
                    own = self.make(aten.slice.Tensor, hidden, 2, d * size, (d + 1) * size)
                cell: Any = None
                if with_cell:
                    last = self.make(operator.getitem, run, 2)
                    cell = self.make(aten.select.int, last, 0, d)
                start = [None if _is_zero(s) else self.make(aten.select.int, s, 0, place) for s in states]
                weights = _weights(parameters[d * per : (d + 1) * per], kernel.has_biases)
                call = LayerCall(x, *weights, own, cell, *_start(kind, start), kind, kernel.batch_first, d == 1)
                y, c = self._layer(call, f"{k}.reverse" if d else str(k))
                outputs.append(y)
                if with_hidden:
                    ends.append(self.make(aten.select.int, y, time, 0 if d else -1))
                if c is not None:
                    cells.append(c)
            x = outputs[0] if directions == 1 else self.make(aten.cat.default, outputs, -1)
            if kernel.dropout and kernel.train and k + 1 < kernel.layers:
                x = self._dropped(x, kernel.dropout, kernel.batch_first)
        self.replace(y_n, x)
        for old, parts in ((h_n, ends), (c_n, cells)):
            if parts:
                self.replace(old, self.make(aten.stack.default, parts))
        for value in returned.values():
            self.graph.erase_node(value)
        if kernel.layers != 1:
            self.graph.erase_node(self.node)

    def _states(self, returned: dict[Any, fx.Node], runs: list[fx.Node], used: tuple[bool, bool]) -> None:
        """Last states that are returned at most are the kernel's."""
        for i, mirrored in enumerate(used, start=1):
            old = returned.get(i)
            if old is not None and not mirrored and (old.users or old in self.forward.outputs):
                parts = [self.make(operator.getitem, run, i) for run in runs]
                self.replace(old, parts[0] if len(parts) == 1 else self.make(aten.cat.default, parts))

    def _dropped(self, x: fx.Node, dropout: Any, batch_first: Any) -> fx.Node:
        """Dropout of what lies in memory as in the kernel, which draws the same numbers then."""
        if not batch_first:
            return self.make(aten.dropout.default, x, dropout, True)
        steps = self.make(aten.contiguous.default, self.make(aten.transpose.int, x, 0, 1))
        return self.make(aten.transpose.int, self.make(aten.dropout.default, steps, dropout, True), 0, 1)

    def _run(
        self, kernel: KernelCall, x: fx.Node, states: list[fx.Node], parameters: list[fx.Node], k: int, directions: int
    ) -> fx.Node:
        """The kernel for layer k alone, both directions."""
        start = [self.make(aten.slice.Tensor, s, 0, k * directions, (k + 1) * directions) for s in states]
        sizes = [symbolic(s) for s in start]
        y = symbolic(x).new_empty((*symbolic(x).shape[:2], directions * sizes[0].shape[-1]))
        state = start if len(start) > 1 else start[0]
        alone = kernel._replace(x=x, state=state, parameters=parameters, layers=1, dropout=0.0)
        return self.make(self.node.target, *alone, val=(y, *sizes))

    def _layer(self, call: LayerCall, name: str | None) -> tuple[fx.Node, fx.Node | None]:
        """The operation of one layer in one direction; its output and, if asked for, the last cell state.

        Args:
            call: of values of the graph.
            name: of the layer within its module.
        """
        y: Any = call.y
        val = symbolic(y)
        if call.c_n is not None:
            if call.w_hr is not None:
                raise ExportError(
                    "the model uses the last cell state of an LSTM with proj_size, which racecar cannot mirror: use "
                    "its output or its last hidden state"
                )
            time = 1 if call.batch_first else 0
            packed = self.make(lstm_layer_and_cell, *call, layer=name)
            steps = val.shape[time]
            sequence = self.make(aten.slice.Tensor, packed, time, 0, -1)
            if symbolic(sequence).shape[time] != steps:  # a symbolic length
                sequence.meta["val"] = val
            return sequence, self.make(aten.select.int, packed, time, -1)
        made = self.make(_OPERATIONS[call.kind], *call, val=val, layer=name)
        if call.kind in ("tanh", "relu"):
            made = self.make(rnn_output, made, call.kind, val=val)
        return made, None

    def cell(self, kind: Kind) -> None:
        """A cell is a layer of one step."""
        node = self.node
        x, state, *weights = (*node.args, None, None)[:6]
        states: Any = state if kind == "lstm" else [state]
        returned: dict[Any, fx.Node] = {u.args[1]: u for u in node.users if u.target is operator.getitem}
        h_n, c_n = (returned.get(0), returned.get(1)) if kind == "lstm" else (node, None)
        cell: Any = self.make(operator.getitem, node, 1) if self.used(c_n) else None
        hidden: Any = self.make(
            aten.unsqueeze.default, self.make(operator.getitem, node, 0) if kind == "lstm" else node, 0
        )
        one: Any = self.make(aten.unsqueeze.default, x, 0)
        start = [None if _is_zero(s) else s for s in states]
        call = LayerCall(one, *_weights(weights, True), hidden, cell, *_start(kind, start), kind, False, False)
        y, c = self._layer(call, None)
        self.replace(h_n, self.make(aten.select.int, y, 0, 0))
        if c is not None and c_n is not None:
            self.replace(c_n, c)


def _weights(parameters: Sequence[Any], has_biases: bool) -> tuple[Any, Any, Any, Any, Any]:
    """The parameters of one layer in one direction as w_ih, w_hh, b_ih, b_hh, w_hr; None for those it has not."""
    w_ih, w_hh, *rest = parameters
    b_ih, b_hh, *projection = rest if has_biases else (None, None, *rest)
    return w_ih, w_hh, b_ih, b_hh, projection[0] if projection else None


def _start(kind: Kind, states: Sequence[Any]) -> tuple[Any, Any]:
    """The initial states of one layer in one direction as h_0 and ``carried``; a GRU uses its only one twice."""
    return states[0], None if kind in ("tanh", "relu") else states[-1]


def _is_zero(state: Any) -> bool:
    """Whether an initial state is the default: zeros made in the graph."""
    return isinstance(state, fx.Node) and state.target in ZEROS
