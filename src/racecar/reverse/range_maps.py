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
from racecar.forward.graph import tensor_arguments, where
from racecar.options import Options
from racecar.reverse.builder import Emitter
from racecar.reverse.layers import rule_of
from racecar.rules.normalization import batch_norm_separate, batch_norm_shared, is_norm, plain_batch_norm
from racecar.rules.reshapes import FOR_ANY_LAYOUT

aten = torch.ops.aten


class Ranges:
    """The range maps of one derivation.

    Args:
        emitter: the graph.
        options: how the input is mapped, and which statistics norms use.
        first: the first layer.
        reverse: applies the reverse rule of an operation to an estimate: pairs of (forward value, estimate).
    """

    def __init__(
        self,
        emitter: Emitter,
        options: Options,
        first: fx.Node | None,
        reverse: Callable[[fx.Node, fx.Node], list[tuple[fx.Node, fx.Node]]],
    ) -> None:
        self.emitter, self.options = emitter, options
        self._first, self._reverse = first, reverse

    def into(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """Map an estimate to the range of the forward value: the norm and activation that produced it."""
        if node.op == "placeholder":
            return self._input_range(estimate)
        if node.op == "call_module":
            return self.into(node.args[-1], estimate)  # type: ignore[arg-type]
        if node in self.emitter.forward.pointwise:
            return self._pointwise_again(node, self.into(self.emitter.forward.pointwise[node], estimate))
        rule = rule_of(node)
        if rule is None or rule.range is None or node.target is operator.getitem:
            return estimate
        arguments = [n for n in tensor_arguments(node) if n in self.emitter.forward.data]
        if not arguments:
            return estimate
        fits = estimate.meta["example"].shape == arguments[0].meta["example"].shape
        if rule.range == "through" and (fits or not self._moves(arguments[0])):
            return self.into(arguments[0], estimate)
        # A move below fits the value before pooling or upsampling, not the one after: the range is found at that size.
        if rule.range in ("through", "within"):
            pieces = self._reverse(node, estimate)
            mapped: dict[fx.Node, list[fx.Node]] = {}  # per use: cat may take one value twice
            for value, piece in pieces:
                mapped.setdefault(value, []).append(self.into(value, piece))
            if all(piece in mapped[value] for value, piece in pieces):
                return estimate
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: mapped[n].pop(0) if mapped.get(n) else n)
            # An estimate need not lie in memory as the forward value does.
            again = FOR_ANY_LAYOUT.get(node.target, node.target)  # type: ignore[arg-type]
            return self.emitter.emit(again, *args, **kwargs)  # type: ignore[arg-type]
        before = self.into(arguments[0], estimate)
        place = where(node)
        function = self._norm(rule.range)
        try:
            given = self.emitter.arguments(function, before, node, node.kwargs)
            mapped_estimate = self.emitter.emit(function, before, *given, **node.kwargs)  # type: ignore[arg-type]
        except Exception as error:
            raise RuleError(f"the range map of {place} failed: {error}") from error
        got = getattr(mapped_estimate.meta["example"], "shape", None)
        if got != before.meta["example"].shape:
            raise RuleError(
                f"the range map of {place} must keep the shape {tuple(before.meta['example'].shape)}, it returned "
                f"{None if got is None else tuple(got)}"
            )
        return mapped_estimate

    def _moves(self, node: fx.Node) -> bool:
        """Whether the way to the norm and activation that made a value leads through an operation that moves values."""
        while node.op == "call_function" and (rule := rule_of(node)) and rule.range is not None:
            inside = [n for n in tensor_arguments(node) if n in self.emitter.forward.data]
            if rule.range == "within":
                return True
            if not inside:
                return False
            node = inside[0]
        return False

    def _pointwise_again(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """A norm or activation that the model spells out in several operations, applied to the estimate."""
        copies = {self.emitter.forward.pointwise[node]: estimate}

        def again(n: fx.Node) -> fx.Node:
            if n not in self.emitter.forward.data:
                return n
            if n not in copies:
                args, kwargs = fx.map_arg((n.args, n.kwargs), again)
                copies[n] = self.emitter.emit(n.target, *args, **kwargs)  # type: ignore[arg-type]
            return copies[n]

        return again(node)

    def _norm(self, function: Any) -> Any:
        if function is batch_norm_separate and self.options.norm_statistics == "shared":
            return batch_norm_shared
        return function

    def _input_range(self, estimate: fx.Node) -> fx.Node:
        choice = self.options.input_range
        if choice is None or not estimate.meta["example"].is_floating_point():
            return estimate
        if choice == "paper":
            if any(n.target is aten.batch_norm.default for n in self.emitter.nodes):
                estimate = self.emitter.emit(plain_batch_norm, estimate)
            activation = self._first_activation()
            if activation is not None:
                rule = rule_of(activation)
                estimate = self.emitter.emit(rule.range, estimate, *activation.args, **activation.kwargs)  # type: ignore[union-attr,arg-type]
            return estimate
        self.emitter.forward.root.add_module("input_range", _Call(choice))
        node = self.emitter.graph.call_module("input_range", (estimate,))
        try:
            node.meta["example"] = self.emitter.evaluate(choice, (estimate,), {})
        except Exception as error:
            raise ArgumentError(
                f"input_range failed on an estimate of shape {tuple(estimate.meta['example'].shape)}: {error}"
            ) from error
        if getattr(node.meta["example"], "shape", None) != estimate.meta["example"].shape:
            raise ArgumentError("input_range must keep the shape of its argument")
        return node

    def _first_activation(self) -> fx.Node | None:
        """The activation after the first mirrored layer (Tables 7, 9, 11, 13: the last step of the reverse pass)."""
        node: fx.Node | None = self._first
        while node is not None:
            users = [u for u in node.users if u in self.emitter.forward.data]
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
