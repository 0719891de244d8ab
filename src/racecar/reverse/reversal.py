"""The reverse of one operation: from estimates of its outputs to estimates of its operands, by the rule it has."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from racecar.errors import RuleError
from racecar.forward.graph import example, operand, tensor_arguments, where
from racecar.reverse.builder import Builder
from racecar.reverse.known import Known, nothing
from racecar.reverse.layers import rule_of
from racecar.reverse.masks import Masks
from racecar.rules.gates import DATA_FIRST
from racecar.rules.registry import ReverseCall, Rule, unchanged


@dataclass(frozen=True)
class Estimate:
    """What the reverse pass regenerates of one value: the node that computes it, and which entries are known."""

    node: fx.Node
    known: Known = None


@dataclass(frozen=True)
class Piece:
    """An estimate that the reverse of an operation hands to a forward value.

    Attributes:
        value: the forward value.
        estimate: of it.
        output: if ``value`` is an operation with several outputs, of which of them.
    """

    value: fx.Node
    estimate: Estimate
    output: int = 0


class Reversal:
    """Reverses single operations, and knows nothing of the way that the reverse pass takes.

    Args:
        builder: the graph to which the reverse is appended.
        masks: of what is known.
    """

    def __init__(self, builder: Builder, masks: Masks) -> None:
        self.builder, self.forward, self.masks = builder, builder.forward, masks

    def lacks_rule(self, node: fx.Node) -> str | None:
        """A line for a message about an operation that has no rule, or none for so many operands; None if it has."""
        if self._passed_by(node) is not None:
            return None
        rule = rule_of(node)
        operands = sum(self._estimated(node))
        if rule is not None and rule.operands in (None, operands):
            return None
        several = f" with {operands} operands that depend on the input" if rule is not None else ""
        return f"  {where(node, several)}"

    def pieces(
        self,
        node: fx.Node,
        outputs: Sequence[Estimate | None],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> list[Piece]:
        """Reverse an operation.

        Args:
            node: an operation that does not lack a rule.
            outputs: an estimate of each of its outputs; None where nothing came back.
            args, kwargs: to reverse it as if it had been called with these.

        Raises:
            RuleError: the rule failed, or returned another number of estimates or other shapes than it must.
        """
        rule = rule_of(node)
        passed = self._passed_by(node)
        if passed is None and rule is not None and rule.reverse is unchanged:
            passed = tensor_arguments(node)[self._estimated(node).index(True)]
        if passed is not None and outputs[0] is not None:
            index = node.args[1] if node.target is operator.getitem else 0
            return [Piece(passed, outputs[0], index)]  # type: ignore[arg-type]
        assert rule is not None
        complete = [self._nothing(node, i) if output is None else output for i, output in enumerate(outputs)]
        try:
            call = node.args if args is None else args, dict(node.kwargs if kwargs is None else kwargs)
            result, masks = self._apply(rule, node, complete, *call)
        except Exception as error:
            raise RuleError(f"the reverse rule {rule.reverse.__name__} of {where(node)} failed: {error}") from error
        return self._given_out(node, result, masks)

    def _passed_by(self, node: fx.Node) -> fx.Node | None:
        """The value whose estimate is the one of this: of what is no operation with a rule of its own."""
        if node.target is operator.getitem:
            return operand(node)
        if node.op == "call_module":  # hooks
            return operand(node, -1)
        return self.forward.pointwise.get(node)  # a norm or activation that the model spells out

    def _estimated(self, node: fx.Node) -> tuple[bool, ...]:
        """Which tensor arguments are to be estimated: data, but of a product not its coefficient."""
        coefficient, first = self.forward.coefficients.get(node), node.target in DATA_FIRST
        return tuple(
            n in self.forward.data and i != coefficient and (i == 0 or not first)
            for i, n in enumerate(tensor_arguments(node))
        )

    def _nothing(self, node: fx.Node, output: int) -> Estimate:
        """Zeros in the place of an output to which no estimate came back."""
        zeros = self.builder.add(_zeros_like_output, node, output)
        return Estimate(zeros, torch.zeros((1,) * example(node)[output].ndim, dtype=torch.bool))

    def _apply(
        self, rule: Rule, node: fx.Node, outputs: list[Estimate], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[fx.Node, Any]:
        """Append the call of a rule: (what it returns, the masks of that: one, a list, or None if all is known)."""

        def nested(values: list[Any]) -> Any:  # as the operation's own outputs are
            return values if isinstance(example(node), tuple | list) else values[0]

        def told(known: Any) -> dict[str, Any]:
            varies = tuple(n in self.masks.varying for n in tensor_arguments(node))
            call = ReverseCall(self._estimated(node), known, node in self.forward.averages, varies)
            return {**kwargs, "context": call} if rule.context else kwargs

        given = nested([self.masks.zeroed(output.node, output.known) for output in outputs])
        words = told(tuple(self.masks.node(output.known) for output in outputs))
        arguments = self.builder.arguments(rule.reverse, given, args, words)
        result = self.builder.add(rule.reverse, given, *arguments, **words)
        if not rule.partial and all(output.known is None for output in outputs):
            return result, None
        known = nested([output.known for output in outputs])
        return result, self.masks.passed_on(rule, node, args, given, known, told((None,) * len(outputs)))

    def _given_out(self, node: fx.Node, result: fx.Node, masks: Any) -> list[Piece]:
        """What a rule returned, value by value."""
        arguments, estimated, returned = tensor_arguments(node), self._estimated(node), example(result)
        if isinstance(returned, tuple | list):
            if len(returned) > len(arguments):
                raise RuleError(
                    f"the reverse rule of {where(node)} returned {len(returned)} estimates for {len(arguments)} tensors"
                )
            places = [i for i, one in enumerate(returned) if one is not None]
            nodes = [self.builder.add(operator.getitem, result, i) for i in places]
        else:
            places, nodes = [estimated.index(True)], [result]
        pieces = []
        for place, piece in zip(places, nodes, strict=True):
            value, mask = arguments[place], masks[place] if isinstance(masks, list) else masks
            self.masks.note(value, mask)
            if value not in self.forward.data:
                continue
            _check_shape(value, piece, node)
            if estimated[place] and not nothing(mask):
                pieces.append(Piece(value, Estimate(piece, mask)))
        return pieces


def _check_shape(value: fx.Node, piece: fx.Node, node: fx.Node) -> None:
    expected, got = example(value).shape, getattr(example(piece), "shape", None)
    if got != expected:
        raise RuleError(
            f"the reverse rule of {where(node)} returned shape {None if got is None else tuple(got)} where the forward "
            f"operation took {tuple(expected)}"
        )


def _zeros_like_output(outputs: Sequence[Tensor], index: int) -> Tensor:
    return torch.zeros_like(outputs[index])
