"""Which entries of an estimate are known: what a select or a slice drops is masked out of the loss, not invented.

Knowledge depends on shapes and positions, never on values, so it is found once, at derivation, by asking every reverse
rule how it passes on ones. A mask is a bool tensor on the CPU with size 1 along every dimension in which it does not
change (so it fits any batch); None stands for "everything". The programs get masks as constants.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_leaves

from racecar.errors import IrreversibleError
from racecar.forward.graph import example, is_number, symbolic, where
from racecar.reverse.builder import Builder
from racecar.rules.registry import Rule, zero_unknown

Known = Tensor | None


# --- masks ------------------------------------------------------------------------------------------------------------


def narrowed(mask: Tensor) -> Tensor:
    """The same mask with size 1 along every dimension in which it does not change."""
    for dim in range(mask.ndim):
        first = mask.narrow(dim, 0, 1)
        if mask.shape[dim] > 1 and bool((mask == first).all()):
            mask = first
    return mask.contiguous()


def unite(masks: Sequence[Known]) -> Known:
    """Known where any of several estimates of one value is."""
    union: Known = None
    for mask in masks:
        if mask is None:
            return None
        union = mask if union is None else union | mask
    return None if union is None or bool(union.all()) else narrowed(union)


def nothing(mask: Known) -> bool:
    """Whether no entry is known."""
    return mask is not None and not bool(mask.any())


def known_share(mask: Known) -> float:
    """The share of the entries that is known."""
    return 1.0 if mask is None else float(mask.double().mean())


# --- functions that the programs call ---------------------------------------------------------------------------------


def mean_of_known(estimates: Sequence[Tensor], known: Sequence[Tensor | None]) -> Tensor:
    """The mean over those of several estimates that are known, entry by entry; 0 where none is."""
    total: Any = 0
    count: Any = 0
    for estimate, mask in zip(estimates, known, strict=True):
        total = total + zero_unknown(estimate, mask)
        count = count + (1 if mask is None else mask.to(estimate.dtype))
    return total / count.clamp(min=1)


def unknown_as_nan(estimate: Tensor, known: Tensor) -> Tensor:
    """An estimate to look at: what is not known is NaN."""
    return torch.where(known, estimate, torch.nan)


# --- the masks of one derivation --------------------------------------------------------------------------------------


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
        self._nodes: dict[Any, fx.Node] = {}
        self._constants: dict[fx.Node, Any] = {}

    def node(self, known: Known) -> fx.Node | None:
        """The constant that holds a mask; None where everything is known."""
        if known is None:
            return None
        key = (tuple(known.shape), known.numpy().tobytes())
        if key not in self._nodes:
            self._nodes[key] = self.builder.add_constant(known, f"known_{len(self._nodes)}")
            self.sized = self.sized or "shape"
        return self._nodes[key]

    def zeroed(self, estimate: fx.Node, known: Known) -> fx.Node:
        """An estimate with 0 where it is not known."""
        return estimate if known is None else self.builder.add(zero_unknown, estimate, self.node(known))

    def passed_on(
        self, rule: Rule, node: fx.Node, estimate: Any, known: Any, kwargs: dict[str, Any]
    ) -> list[Known] | Known:
        """Which entries of what a rule returns are known: those to which a known entry of the estimate contributes.

        Args:
            rule: asked by calling it on ones where the estimate is known, and on zeros.
            node: the operation; tensors of numbers among its arguments are ones, so that nothing cancels.
            estimate: what the rule is given, a node or a list of them; only shapes are read.
            known: its mask, or a list of them.
            kwargs: of the call.

        Returns:
            A mask for the estimate that the rule returns, or a list of them, one per returned estimate.
        """
        args, kwargs = fx.map_arg((node.args, kwargs), self._real)
        examples = fx.map_arg(estimate, example)
        reverse = rule.informs or rule.reverse
        with torch.no_grad():
            ones = reverse(_as_numbers(examples, known), *args, **kwargs)
            zeros = reverse(
                _as_numbers(examples, [_NOWHERE] * len(known) if isinstance(known, list) else _NOWHERE), *args, **kwargs
            )
        if isinstance(ones, tuple | list):
            return [None if one is None else _mask(one != zero) for one, zero in zip(ones, zeros, strict=True)]
        return _mask(ones != zeros)

    def note(self, value: fx.Node, mask: Known) -> None:
        """A mask that differs along a dimension in which the batch lies holds for this very batch."""
        if mask is None:
            return
        batch = self.builder.forward.batch_symbols
        for size, length in zip(getattr(symbolic(value), "shape", ()), mask.shape, strict=False):
            if length > 1 and free_unbacked_symbols(size):
                raise IrreversibleError(
                    f"what the reverse pass knows of {where(value)} differs along a dimension whose size depends on "
                    "values, so that no mask fits every batch: choose start= before it"
                )
            if length > 1 and isinstance(size, torch.SymInt) and size.node.expr.free_symbols & batch:
                self.sized = "batch"

    def _real(self, node: fx.Node) -> Any:
        """A value for asking how knowledge passes: ones, but constants such as indices and masks as they are."""
        value = example(node)
        if isinstance(value, tuple | list):
            return type(value)(_one(v) for v in value)
        if not isinstance(value, Tensor):
            return value
        return _one(value) if is_number(value) or node in self.varying else self._constant(node)

    def _constant(self, node: fx.Node) -> Any:
        """What a node that does not vary gives at every call."""
        if not any(isinstance(e, Tensor) for e in tree_leaves(example(node))):
            return example(node)
        if node not in self._constants:
            if node in self.builder.values:
                self._constants[node] = self.builder.values[node].detach().cpu()
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), self._constant)
                kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
                self._constants[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._constants[node]


_NOWHERE = torch.zeros((), dtype=torch.bool)


def _as_numbers(estimate: Any, known: Any) -> Any:
    """1 where an estimate is known, else 0."""
    if isinstance(estimate, list):
        return [_as_numbers(e, k) for e, k in zip(estimate, known, strict=True)]
    mask = torch.ones((), dtype=torch.bool) if known is None else known
    numbers = mask.expand(estimate.shape).to(torch.float64)
    return torch.complex(numbers, numbers) if estimate.is_complex() else numbers


def _mask(mask: Tensor) -> Known:
    return None if bool(mask.all()) else narrowed(mask)


def _one(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    kinds = ((value.is_complex(), torch.complex128), (value.is_floating_point(), torch.float64))
    dtype = next((wide for kind, wide in kinds if kind), value.dtype)
    return torch.ones((), dtype=dtype).expand(value.shape)
