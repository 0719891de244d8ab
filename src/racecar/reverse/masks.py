"""The masks of one derivation: constants of its programs, and what has to be asked again for inputs of other sizes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Literal

from torch import fx

from racecar.errors import IrreversibleError
from racecar.forward.graph import example, symbolic, where
from racecar.reverse.again import Again, Asked, Placed, Read, Step, United, along_the_batch
from racecar.reverse.builder import Builder
from racecar.reverse.known import Known, unite
from racecar.reverse.questions import Questions
from racecar.rules.registry import Rule, zero_unknown


class Masks:
    """Masks as constants of the programs, and how rules pass them on.

    Args:
        builder: the graph.
        varying: values on which no mask may hang: they differ from call to call.

    Attributes:
        sized: whether a mask fixes the sizes of the inputs: None, ``"shape"`` (all but the batch's) or ``"batch"``.
    """

    def __init__(self, builder: Builder, varying: Set[fx.Node]) -> None:
        self.builder, self.varying = builder, varying
        self.sized: Literal["shape", "batch"] | None = None
        self._questions = Questions(example, builder.values, varying)
        self._nodes: dict[Any, fx.Node] = {}
        self._positions: dict[Any, int] = {}
        self._steps: list[Step] | None = []  # None: cannot be repeated

    def node(self, known: Known) -> fx.Node | None:
        """The constant that holds a mask; None where everything is known."""
        if known is None:
            return None
        key = (tuple(known.shape), known.numpy().tobytes())
        if key not in self._nodes:
            self._nodes[key] = self.builder.add_constant(known, f"known_{len(self._nodes)}")
            self.sized = self.sized or "shape"
            self._positions[key] = len(self.builder.forward.constants) - 1
        self._note(Read(known, self._positions[key]))
        return self._nodes[key]

    def zeroed(self, estimate: fx.Node, known: Known) -> fx.Node:
        """An estimate with 0 where it is not known."""
        return estimate if known is None else self.builder.add(zero_unknown, estimate, self.node(known))

    def passed_on(
        self,
        rule: Rule,
        node: fx.Node,
        args: tuple[Any, ...],
        estimate: Any,
        known: Any,
        kwargs: dict[str, Any],
    ) -> list[Known] | Known:
        """Which entries of what a rule returns are known, see :meth:`racecar.reverse.questions.Questions.ask`.

        Args:
            rule, args, known, kwargs: as there.
            node: the operation.
            estimate: a node or a list of them.
        """
        examples = fx.map_arg(estimate, example)
        answer = self._questions.ask(rule, args, examples, known, kwargs)
        # Equal answers are one object, which for other sizes need not be equal.
        answer = [_alias(mask) for mask in answer] if isinstance(answer, list) else _alias(answer)
        if _shapes(examples) == _shapes(example(node)):
            self._note(Asked(rule, node, args, _dtypes(examples), known, kwargs, answer))
        else:
            self._steps = None
        return answer

    def united(self, masks: Sequence[Known]) -> Known:
        """Known where any of several estimates of one value is."""
        union = _alias(unite(masks))
        self._note(United(tuple(masks), union))
        return union

    def note(self, value: fx.Node, mask: Known) -> None:
        """A mask that differs along a dimension in which the batch lies holds for this very batch."""
        from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols  # brings sympy

        if mask is not None:
            for size, length in zip(getattr(symbolic(value), "shape", ()), mask.shape, strict=False):
                if length > 1 and free_unbacked_symbols(size):
                    raise IrreversibleError(
                        f"what the reverse pass knows of {where(value)} differs along a dimension whose size depends "
                        "on values, so that no mask fits every batch: choose start= before it"
                    )
        self._note(Placed(value, mask))
        if along_the_batch(value, mask, self.builder.forward.batch_symbols):
            self.sized = "batch"

    def again(self) -> Again | None:
        """What finds the masks for inputs of other sizes; None where they hang on more, or there are none."""
        if self.sized is None or self._steps is None:
            return None
        values = {n: v for n, v in self.builder.values.items() if n not in self.varying}
        batch = self.builder.forward.batch_symbols if self.sized == "shape" else set[Any]()
        return Again(self._steps, values, self.varying, batch)

    def _note(self, step: Step) -> None:
        if self._steps is not None:
            self._steps.append(step)


def _alias(mask: Known) -> Known:
    return None if mask is None else mask.view_as(mask)


def _shapes(value: Any) -> Any:
    return [_shapes(v) for v in value] if isinstance(value, tuple | list) else getattr(value, "shape", None)


def _dtypes(value: Any) -> Any:
    return [_dtypes(v) for v in value] if isinstance(value, tuple | list) else value.dtype
