"""The range of L'_m: what left a layer's adjoint is mapped by the norm and activation that made L_m (Section 3).

A range map is looked for behind reshapes, pooling and additions too, through which the registry's ``"through"`` and
``"within"`` lead.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from racecar.errors import ArgumentError, RuleError
from racecar.forward.graph import example, function_of, operand, tensor_arguments, where
from racecar.options import Options
from racecar.reverse.builder import Builder
from racecar.reverse.layers import rule_of
from racecar.reverse.reversal import Estimate, Reversal
from racecar.rules.domain import DOMAINS
from racecar.rules.normalization import batch_norm_separate, batch_norm_shared, is_norm, plain_batch_norm

aten = torch.ops.aten


class Ranges:
    """The range maps of one derivation.

    Args:
        builder: the graph.
        options: how the input is mapped, and which statistics norms use.
        first: the first layer.
        reversal: undoes operations that move values, so that the range of what they moved can be found.
    """

    def __init__(self, builder: Builder, options: Options, first: fx.Node | None, reversal: Reversal) -> None:
        self.builder, self.forward, self.options = builder, builder.forward, options
        self._first, self._reversal = first, reversal

    def into(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """Map an estimate to the range of the forward value: the norm and activation that produced it."""
        if node.op == "placeholder":
            return self._input_range(estimate)
        if node.op == "call_module":
            return self.into(operand(node, -1), estimate)
        if node in self.forward.pointwise:
            return self._pointwise_again(node, self.into(self.forward.pointwise[node], estimate))
        rule, data = rule_of(node), self._data(node)
        if rule is None or rule.range is None or node.target is operator.getitem or not data:
            return estimate
        if callable(rule.range):
            return self._mapped(node, rule.range, self.into(data[0], estimate))
        fits = example(estimate).shape == example(data[0]).shape
        if rule.range == "through" and (fits or not self._moves(data[0])):
            return self.into(data[0], estimate)
        # A move below fits the value before pooling or upsampling, not the one after: the range is found at that size.
        return self._undone_and_done_again(node, estimate)

    def _data(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in tensor_arguments(node) if n in self.forward.data]

    def _mapped(self, node: fx.Node, range_map: Callable[..., Any], estimate: fx.Node) -> fx.Node:
        """A registered range map, applied to an estimate."""
        if range_map is batch_norm_separate and self.options.norm_statistics == "shared":
            range_map = batch_norm_shared
        try:
            arguments = self.builder.arguments(range_map, estimate, node.args, node.kwargs)
            mapped = self.builder.add(range_map, estimate, *arguments, **node.kwargs)
        except Exception as error:
            raise RuleError(f"the range map of {where(node)} failed: {error}") from error
        expected, got = example(estimate).shape, getattr(example(mapped), "shape", None)
        if got != expected:
            raise RuleError(
                f"the range map of {where(node)} must keep the shape {tuple(expected)}, it returned "
                f"{None if got is None else tuple(got)}"
            )
        return mapped

    def _undone_and_done_again(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """The range of a value that an operation has only moved is found where it was before."""
        pieces = [(piece.value, piece.estimate.node) for piece in self._reversal.pieces(node, [Estimate(estimate)])]
        mapped: dict[fx.Node, list[fx.Node]] = {}  # per use: cat may take one value twice
        for value, piece in pieces:
            mapped.setdefault(value, []).append(self.into(value, piece))
        if all(piece in mapped[value] for value, piece in pieces):
            return estimate
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: mapped[n].pop(0) if mapped.get(n) else n)
        return self.builder.again(node, args, kwargs)

    def _moves(self, node: fx.Node) -> bool:
        """Whether the way to the norm and activation that made a value leads through an operation that moves values."""
        while node.op == "call_function" and (rule := rule_of(node)) and rule.range is not None:
            if rule.range == "within":
                return True
            data = self._data(node)
            if not data:
                return False
            node = data[0]
        return False

    def _pointwise_again(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """A norm or activation that the model spells out in several operations, applied to the estimate."""
        root = self.forward.pointwise[node]
        inside: dict[fx.Node, None] = {node: None}
        for n in (waiting := [node]):
            new = [a for a in n.all_input_nodes if a in self.forward.data and a is not root and a not in inside]
            inside.update(dict.fromkeys(new))
            waiting.extend(new)
        for n in inside:  # of x log(x) both factors are the estimate as the logarithm can take it
            estimate = self._in_domain(n, root, estimate)
        copies = {root: estimate}

        def again(n: fx.Node) -> fx.Node:
            if n not in self.forward.data:
                return n
            if n not in copies:
                args, kwargs = fx.map_arg((n.args, n.kwargs), again)
                pairs = zip(n.args, args, strict=True)
                args = tuple(b if a is root else self._in_domain(n, a, b) for a, b in pairs)
                try:
                    copies[n] = self.builder.again(n, args, kwargs)
                except Exception as error:
                    raise RuleError(f"{where(n)} cannot be applied to an estimate: {error}") from error
            return copies[n]

        return again(node)

    def _in_domain(self, node: fx.Node, value: Any, estimate: Any) -> Any:
        """An estimate of an argument as an operation can take it that is not defined everywhere."""
        position, domain = DOMAINS.get(function_of(node), (0, None))
        if domain is None or node.args[position] is not value or value not in self.forward.data:
            return estimate
        return self.builder.add(domain, estimate, *node.args[position:])

    def _input_range(self, estimate: fx.Node) -> fx.Node:
        """The network's input has no layer before it: its range is the user's choice."""
        choice = self.options.input_range
        if choice is None or not example(estimate).is_floating_point():
            return estimate
        if choice != "paper":
            return self._users_range(estimate, choice)
        if any(n.target is aten.batch_norm.default for n in self.builder.nodes):
            estimate = self.builder.add(plain_batch_norm, estimate)
        activation = self._first_activation()
        if activation is not None and (rule := rule_of(activation)) is not None and callable(rule.range):
            estimate = self.builder.add(rule.range, estimate, *activation.args, **activation.kwargs)
        return estimate

    def _users_range(self, estimate: fx.Node, function: Callable[[Tensor], Tensor]) -> fx.Node:
        expected = example(estimate).shape
        try:
            mapped = self.builder.add_module("input_range", _Call(function), estimate)
        except Exception as error:
            raise ArgumentError(f"input_range failed on an estimate of shape {tuple(expected)}: {error}") from error
        if getattr(example(mapped), "shape", None) != expected:
            raise ArgumentError("input_range must keep the shape of its argument")
        return mapped

    def _first_activation(self) -> fx.Node | None:
        """The activation after the first mirrored layer (Tables 7, 9, 11, 13: the last step of the reverse pass)."""
        node: fx.Node | None = self._first
        while node is not None:
            users = [u for u in node.users if u in self.forward.data]
            node = next((u for u in users if (r := rule_of(u)) and callable(r.range)), None)
            if node is not None and not is_norm(node.target):
                return node
        return None


class _Call(nn.Module):
    """A user's function as a module, so that a graph can call it whatever its name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, estimate: Tensor) -> Tensor:
        return self.function(estimate)
