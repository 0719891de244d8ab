"""The reverse of a sum of linear branches (:mod:`racecar.forward.sums`): y = Σ A_i x + c goes back as Σ A_iᵀ(y - c)."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from racecar.forward.graph import example, operand
from racecar.forward.sums import LinearSum, is_copy, itself
from racecar.reverse.builder import Builder
from racecar.reverse.masks import Masks
from racecar.reverse.reversal import Estimate, Piece, Reversal
from racecar.rules.affine import ADDED_TO, ADDITIONS, BIAS, PER_CHANNEL

aten = torch.ops.aten


class Adjoint:
    """Appends the adjoints of sums.

    Args:
        builder: the graph.
        masks: of what is known.
        reversal: reverses a branch's operations.
    """

    def __init__(self, builder: Builder, masks: Masks, reversal: Reversal) -> None:
        self.builder, self.masks, self.reversal = builder, masks, reversal

    def pieces(self, branches: LinearSum, estimate: Estimate) -> list[Piece]:
        """From an estimate of the sum to one of what the branches come from.

        Raises:
            RuleError: the rule of an operation in a branch failed.
        """
        rest = estimate.node
        if (constant := self._constant(branches)) is not None:
            rest = self.builder.add(_less, rest, constant)
        arrived: dict[fx.Node, list[Estimate]] = {branches.end: [Estimate(rest, estimate.known)]}
        for node in reversed(branches.inside):
            if node not in arrived:
                continue
            for piece in self._back(node, self._total(arrived[node])):
                arrived.setdefault(itself(piece.value), []).append(piece.estimate)
        return [Piece(branches.value, self._total(arrived[branches.value]))] if branches.value in arrived else []

    def _back(self, node: fx.Node, estimate: Estimate) -> list[Piece]:
        """The adjoint of one operation without its constant."""
        if node.target in ADDITIONS:
            return self._to_summands(node, estimate)
        args, kwargs = node.args, dict(node.kwargs)
        if (position := BIAS.get(node.target)) is not None:  # type: ignore[call-overload]
            args = tuple(None if i == position else a for i, a in enumerate(args))
            kwargs.pop("bias", None)
        elif node.target in ADDED_TO:
            kwargs["beta"] = 0
        return self.reversal.pieces(node, [estimate], args, kwargs)

    def _to_summands(self, node: fx.Node, estimate: Estimate) -> list[Piece]:
        pieces = []
        for value, factor in zip(node.args[:2], _factors(node), strict=True):
            if isinstance(value, fx.Node) and value in self.builder.forward.data:
                back = estimate.node if factor == 1 else self.builder.add(operator.mul, estimate.node, factor)
                pieces.append(Piece(value, Estimate(back, estimate.known)))
        return pieces

    def _total(self, estimates: list[Estimate]) -> Estimate:
        """What has come back to a value by several branches, added; what is not known of one adds nothing."""
        if len(estimates) == 1:
            return estimates[0]
        total = self.masks.zeroed(estimates[0].node, estimates[0].known)
        for other in estimates[1:]:
            total = self.builder.add(operator.add, total, self.masks.zeroed(other.node, other.known))
        return Estimate(total, self.masks.united([e.known for e in estimates]))

    def _constant(self, branches: LinearSum) -> Any:
        """The sum for x = 0: a value or a number that broadcasts to it; None for zero."""
        constants: dict[fx.Node, Any] = {branches.value: None}
        for node in branches.inside:
            constants[node] = self._constant_of(node, constants)
        return constants[branches.end]

    def _constant_of(self, node: fx.Node, constants: dict[fx.Node, Any]) -> Any:
        add = self.builder.add
        if node.target in ADDITIONS:
            total: Any = None
            for value, factor in zip(node.args[:2], _factors(node), strict=True):
                term = constants.get(itself(value), value) if isinstance(value, fx.Node) else value
                if term is not None:
                    term = term if factor == 1 else add(operator.mul, term, factor)
                    total = term if total is None else add(operator.add, total, term)
            return total
        (value,) = (n for n in node.all_input_nodes if itself(n) in constants)
        inner = constants[itself(value)]
        if is_copy(node):
            return inner
        if inner is not None:
            whole = add(_as_large_as, inner, value)
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: whole if n is value else n)
            return add(node.target, *args, **kwargs)  # type: ignore[arg-type]
        if node.target in ADDED_TO:
            beta = node.kwargs.get("beta", 1)
            return operand(node) if beta == 1 else add(operator.mul, operand(node), beta)
        if (position := BIAS.get(node.target)) is None:  # type: ignore[call-overload]
            return None
        bias = node.kwargs.get("bias", node.args[position] if len(node.args) > position else None)
        if bias is None or node.target not in PER_CHANNEL:
            return bias
        return add(torch.reshape, bias, (-1, *[1] * (example(operand(node, 1)).ndim - 2)))


def _factors(node: fx.Node) -> tuple[Any, Any]:
    """How an addition weighs its two operands."""
    alpha: Any = node.kwargs.get("alpha", 1)
    return 1, alpha if node.target is aten.add.Tensor else -alpha


def _less(estimate: Tensor, constant: Tensor) -> Tensor:
    # In the estimate's dtype: under autocast a float32 bias would make the whole estimate float32.
    return estimate - (constant.to(estimate.dtype) if isinstance(constant, Tensor) else constant)


def _as_large_as(constant: Any, value: Tensor) -> Tensor:
    return torch.as_tensor(constant, dtype=value.dtype, device=value.device).expand(value.shape)
