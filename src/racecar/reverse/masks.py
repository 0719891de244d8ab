"""Masks of what is known, as constants of the programs, and how a rule passes them on."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, fx

from racecar.forward.graph import is_floating
from racecar.reverse.builder import Emitter
from racecar.reverse.known import Known, passed_on
from racecar.rules.registry import ReverseCall, Rule, zero_unknown


class Masks:
    """The masks of one derivation.

    Attributes:
        sized: whether a mask fixes the sizes of the inputs: None, ``"shape"`` (all but the batch's) or ``"batch"``.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.sized: Literal["shape", "batch"] | None = None
        self._masks: dict[Any, fx.Node] = {}
        self._reals: dict[fx.Node, Tensor] = {}

    def of(self, known: Known) -> tuple[fx.Node, ...]:
        """The mask's node, if there is one."""
        return () if known is None else (self.node(known),)

    def node(self, known: Tensor) -> fx.Node:
        """A mask as a constant of the programs."""
        key = (tuple(known.shape), known.numpy().tobytes())
        if key not in self._masks:
            with self.emitter.graph.inserting_before(self.emitter.forward.inputs[0]):
                node = self.emitter.graph.placeholder(f"known_{len(self._masks)}")
            example = next((v for v in self.emitter.values.values() if isinstance(v, Tensor)), known)
            constant = known.to(example.device)
            node.meta["example"] = self.emitter.fake.from_tensor(constant)
            self.emitter.forward.constants.append(constant)
            self.emitter.forward.weight_nodes.append(node)
            self.emitter.nodes.append(node)
            self._masks[key] = node
            self.sized = self.sized or "shape"
        return self._masks[key]

    def note(self, value: fx.Node, mask: Known) -> None:
        """A mask that differs along a dimension that may vary holds for this very batch."""
        sizes = getattr(value.meta.get("val"), "shape", ())
        free = [isinstance(s, torch.SymInt) for s in sizes]
        if mask is not None and any(m > 1 and f for m, f in zip(mask.shape, free, strict=False)):
            self.sized = "batch"

    def informed(self, estimate: Any, known: Any, call: ReverseCall) -> tuple[Any, ReverseCall]:
        """What a rule is given that meets an estimate of which not everything is known."""
        many = isinstance(known, list)
        masks = [None if k is None else self.node(k) for k in (known if many else [known])]
        given = [
            e if m is None else self.emitter.emit(zero_unknown, e, m)
            for e, m in zip(estimate if many else [estimate], masks, strict=True)
        ]
        return given if many else given[0], call._replace(known=tuple(masks))  # type: ignore[arg-type]

    def passed_on(self, rule: Rule, node: fx.Node, estimate: Any, known: Any, kwargs: dict[str, Any]) -> Any:
        """The masks of what a rule returns, by asking it with ones; see :func:`racecar.reverse.known.passed_on`."""
        args, kwargs = fx.map_arg((node.args, kwargs), self._real)
        examples = fx.map_arg(estimate, lambda n: n.meta["example"])
        return passed_on(rule.informs or rule.reverse, examples, known, args, kwargs)

    def _real(self, node: fx.Node) -> Any:
        """A value for asking how knowledge passes: ones, but constants such as indices as they are."""
        example = node.meta["example"]
        if isinstance(example, tuple | list):
            return type(example)(self._one(e) for e in example)
        if not isinstance(example, Tensor):
            return example
        if is_floating(example) or node in self.emitter.forward.data:
            return self._one(example)
        if node not in self._reals:
            if node in self.emitter.values:
                self._reals[node] = self.emitter.values[node].detach().cpu()
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), self._real)
                kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
                self._reals[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._reals[node]

    @staticmethod
    def _one(example: Any) -> Any:
        if not isinstance(example, Tensor):
            return example
        return torch.ones((), dtype=torch.float64 if is_floating(example) else example.dtype).expand(example.shape)
