"""Masks for inputs of other sizes: the steps that found them, repeated without the graph around them.

What is known depends on sizes and positions. The programs do not: sentences of another length need other masks and
nothing else, which are found here in milliseconds, layers that are alike asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from racecar.forward.graph import symbolic
from racecar.reverse.known import Known, nothing, unite
from racecar.reverse.questions import Questions
from racecar.rules.registry import Rule


@dataclass(frozen=True)
class Asked:
    """A rule was asked, with an estimate of ``node`` in ``dtypes``: :meth:`racecar.reverse.questions.Questions.ask`."""

    rule: Rule
    node: fx.Node
    args: tuple[Any, ...]
    dtypes: Any
    known: Any
    kwargs: dict[str, Any]
    answer: Any


@dataclass(frozen=True)
class United:
    """Masks were united."""

    masks: tuple[Known, ...]
    union: Known


@dataclass(frozen=True)
class Read:
    """A mask is read as the constant at a position among those of the programs."""

    mask: Tensor
    position: int


@dataclass(frozen=True)
class Placed:
    """A mask is that of an estimate of a forward value."""

    value: fx.Node
    mask: Known


Step = Asked | United | Read | Placed


class _OtherwiseError(Exception):
    """For these sizes the derivation would go another way."""


class Again:
    """The steps of a derivation that found its masks.

    Args:
        steps: in their order; a mask is told by its identity.
        values: of placeholders that do not vary.
        varying: values that differ from call to call.
        batch: symbols of the batch, on which no mask hangs; none if one does.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        values: Mapping[fx.Node, Any],
        varying: Set[fx.Node],
        batch: Set[Any],
    ) -> None:
        self._steps, self._values, self._varying = tuple(steps), values, varying
        self._batch = batch

    def masks(self, sizes: Mapping[Any, Any]) -> dict[int, Tensor] | None:
        """The masks for inputs of other sizes, by their positions among the constants.

        Args:
            sizes: of the symbols of the inputs' dimensions.

        Returns:
            None where some of what the derivation decided would be decided otherwise.
        """
        # Where no mask hangs on the batch, the smallest will do.
        sizes = {symbol: 2 if symbol in self._batch else size for symbol, size in sizes.items()}
        try:
            return self._repeated(sizes)
        except _OtherwiseError:
            return None

    def _repeated(self, sizes: Mapping[Any, Any]) -> dict[int, Tensor]:
        def look(node: fx.Node) -> Any:
            if "val" not in node.meta:
                raise _OtherwiseError
            return pytree.tree_map(lambda value: _at(value, sizes), symbolic(node))

        questions, now = Questions(look, self._values, self._varying), dict[int, Known]()
        constants: dict[int, Tensor] = {}

        def current(mask: Known) -> Known:
            return mask if mask is None else now.get(id(mask), mask)

        def note(then: Known, mask: Known) -> None:
            if (then is None) != (mask is None) or nothing(then) != nothing(mask):
                raise _OtherwiseError
            if then is not None:
                now[id(then)] = mask

        for step in self._steps:
            if isinstance(step, Asked):
                known = [current(m) for m in step.known] if isinstance(step.known, list) else current(step.known)
                estimate = _estimate(look(step.node), step.dtypes)
                answer = questions.ask(step.rule, step.args, estimate, known, step.kwargs)
                for then, mask in zip(_listed(step.answer), _listed(answer), strict=True):
                    note(then, mask)
            elif isinstance(step, United):
                note(step.union, unite([current(m) for m in step.masks]))
            elif isinstance(step, Placed):
                if along_the_batch(step.value, current(step.mask), self._batch):
                    raise _OtherwiseError
            else:
                mask = current(step.mask)
                assert mask is not None
                # One constant served equal masks, which need not be equal now.
                if not torch.equal(constants.setdefault(step.position, mask), mask):
                    raise _OtherwiseError
        return constants


def _listed(answer: Any) -> list[Known]:
    return answer if isinstance(answer, list) else [answer]


def along_the_batch(value: fx.Node, mask: Known, batch: Set[Any]) -> bool:
    """Whether a mask differs along a dimension in which the batch lies."""
    sizes = () if mask is None else zip(getattr(symbolic(value), "shape", ()), mask.shape, strict=False)
    return any(
        length > 1 and isinstance(size, torch.SymInt) and not size.node.expr.free_symbols.isdisjoint(batch)
        for size, length in sizes
    )


def _estimate(value: Any, dtypes: Any) -> Any:
    if isinstance(dtypes, list):
        return [_estimate(v, d) for v, d in zip(value, dtypes, strict=True)]
    return torch.empty(value.shape, dtype=dtypes, device="meta")


def _at(value: Any, sizes: Mapping[Any, Any]) -> Any:
    """A number or a tensor of the tracer's, for inputs of certain sizes."""
    if isinstance(value, Tensor):
        return torch.empty([_at(size, sizes) for size in value.shape], dtype=value.dtype, device="meta")
    for kind, number in ((torch.SymInt, int), (torch.SymFloat, float), (torch.SymBool, bool)):
        if isinstance(value, kind):
            expression = value.node.expr.xreplace(sizes)
            if getattr(expression, "free_symbols", None):
                raise _OtherwiseError
            return number(expression)
    return value
