"""Recurrent networks in the exported graph: one operation per layer and direction, in place of one per module.

``torch.export`` keeps ``nn.LSTM`` and its like as one operation, however many layers it has. Here every layer, and of a
bidirectional one every direction, becomes an operation of its own with a name (``"lstm.0"``, ``"lstm.0.reverse"``,
``"lstm.1"``, …), so that its input is an L_m. PyTorch's own kernels still compute the forward pass, one call per layer
with both directions. What these operations are in the reverse pass stands in :mod:`racecar.rules.recurrent`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from racecar.errors import ExportError
from racecar.forward.graph import ForwardGraph, symbolic
from racecar.rules.creators import ZEROS
from racecar.rules.recurrent import CELLS, KERNELS, gru_layer, lstm_layer, lstm_layer_and_cell, rnn_layer, rnn_output

aten = torch.ops.aten


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

    def module(self, kind: str) -> None:
        """One layer of operations after the other; dropout between them, as in the kernel."""
        node = self.node
        arguments: Any = node.args
        x, state, parameters, has_biases, layers, dropout, train, both, batch_first = arguments
        states = list(state) if kind == "lstm" else [state]
        directions = 2 if both else 1
        per = len(parameters) // (layers * directions)
        returned: dict[Any, fx.Node] = {u.args[1]: u for u in node.users if u.target is operator.getitem}
        y_n, h_n, c_n = (returned.get(i) for i in range(3))
        with_cell = self.used(c_n)
        time = 1 if batch_first else 0
        ends: list[fx.Node] = []
        cells: list[fx.Node] = []
        runs: list[fx.Node] = []
        for k in range(layers):
            weights = list(parameters[k * directions * per : (k + 1) * directions * per])
            run = node if layers == 1 else self._run(x, states, weights, k, directions)
            runs.append(run)
            if k + 1 == layers:  # before y, so that the module's output is its last operation
                self._states(returned, runs, (self.used(h_n), with_cell))
            hidden = self.make(operator.getitem, run, 0)
            size = symbolic(hidden).shape[-1] // directions
            outputs = []
            for d in range(directions):
                place = k * directions + d
                own = hidden if directions == 1 else self.make(aten.slice.Tensor, hidden, 2, d * size, (d + 1) * size)
                cell = None
                if with_cell:
                    last = self.make(operator.getitem, run, 2)
                    cell = self.make(aten.select.int, last, 0, d)
                start = [None if _is_zero(s) else self.make(aten.select.int, s, 0, place) for s in states]
                name = f"{k}.reverse" if d else str(k)
                y, c = self._layer(
                    kind, x, weights[d * per : (d + 1) * per], has_biases, own, cell, start, batch_first, d == 1, name
                )
                outputs.append(y)
                if self.used(h_n):
                    ends.append(self.make(aten.select.int, y, time, 0 if d else -1))
                if c is not None:
                    cells.append(c)
            x = outputs[0] if directions == 1 else self.make(aten.cat.default, outputs, -1)
            if dropout and train and k + 1 < layers:
                x = self._dropped(x, dropout, batch_first)
        self.replace(y_n, x)
        for old, parts in ((h_n, ends), (c_n, cells)):
            if parts:
                self.replace(old, self.make(aten.stack.default, parts))
        for value in returned.values():
            self.graph.erase_node(value)
        if layers != 1:
            self.graph.erase_node(node)

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

    def _run(self, x: fx.Node, states: list[Any], weights: list[Any], k: int, directions: int) -> fx.Node:
        """The kernel for layer k alone, both directions."""
        start = [self.make(aten.slice.Tensor, s, 0, k * directions, (k + 1) * directions) for s in states]
        _, _, _, has_biases, _, _, train, both, batch_first = self.node.args
        vals = [symbolic(s) for s in start]
        sizes = symbolic(x).shape
        y = symbolic(x).new_empty((*sizes[:2], directions * vals[0].shape[-1]))
        options = (weights, has_biases, 1, 0.0, train, both, batch_first)
        return self.make(
            self.node.target, x, start if len(start) > 1 else start[0], *options, val=(y, *vals[: len(start)])
        )

    def _layer(
        self,
        kind: str,
        x: fx.Node,
        weights: list[Any],
        has_biases: Any,
        y: fx.Node,
        cell: fx.Node | None,
        start: list[fx.Node | None],
        batch_first: Any,
        reverse: bool,
        name: str | None,
    ) -> tuple[fx.Node, fx.Node | None]:
        """The operation of one layer in one direction; its output and, if asked for, the last cell state."""
        w_ih, w_hh, *rest = weights
        biases = rest[:2] if has_biases else [None, None]
        projection = rest[2 if has_biases else 0 :]
        val = symbolic(y)
        if kind == "lstm" and cell is not None:
            if projection:
                raise ExportError(
                    "the model uses the last cell state of an LSTM with proj_size, which racecar cannot mirror: use "
                    "its output or its last hidden state"
                )
            time = 1 if batch_first else 0
            packed = self.make(
                lstm_layer_and_cell, x, w_ih, w_hh, *biases, y, cell, *start, batch_first, reverse, layer=name
            )
            steps = val.shape[time]
            sequence = self.make(aten.slice.Tensor, packed, time, 0, -1)
            if symbolic(sequence).shape[time] != steps:  # a symbolic length
                sequence.meta["val"] = val
            return sequence, self.make(aten.select.int, packed, time, -1)
        if kind == "lstm":
            hr = projection[0] if projection else None
            made = self.make(
                lstm_layer, x, w_ih, w_hh, *biases, hr, y, *start, batch_first, reverse, val=val, layer=name
            )
            return made, None
        if kind == "gru":
            made = self.make(
                gru_layer, x, w_ih, w_hh, *biases, y, *start, *start, batch_first, reverse, val=val, layer=name
            )
            return made, None
        made = self.make(rnn_layer, x, w_ih, w_hh, *biases, y, *start, kind, batch_first, reverse, val=val, layer=name)
        return self.make(rnn_output, made, kind, val=val), None

    def cell(self, kind: str) -> None:
        """A cell is a layer of one step."""
        node = self.node
        x, state, w_ih, w_hh, b_ih, b_hh = (*node.args, None, None)[:6]
        states: list[Any] = list(state) if kind == "lstm" else [state]  # type: ignore[arg-type]
        returned: dict[Any, fx.Node] = {u.args[1]: u for u in node.users if u.target is operator.getitem}
        h_n, c_n = (returned.get(0), returned.get(1)) if kind == "lstm" else (node, None)
        cell = self.make(operator.getitem, node, 1) if self.used(c_n) else None
        hidden = self.make(aten.unsqueeze.default, self.make(operator.getitem, node, 0) if kind == "lstm" else node, 0)
        one = self.make(aten.unsqueeze.default, x, 0)
        start = [None if _is_zero(s) else s for s in states]
        weights = [w_ih, w_hh, b_ih, b_hh]
        y, c = self._layer(kind, one, weights, True, hidden, cell, start, False, False, None)
        self.replace(h_n, self.make(aten.select.int, y, 0, 0))
        if c is not None and c_n is not None:
            self.replace(c_n, c)


def _is_zero(state: Any) -> bool:
    """Whether an initial state is the default: zeros made in the graph."""
    return isinstance(state, fx.Node) and state.target in ZEROS
