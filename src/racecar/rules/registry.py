"""The public registry of reverse rules, keyed by ATen operation, and the contract a rule keeps.

This file knows no operation. The rules themselves stand beside it, one file per family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

R = TypeVar("R", bound=Callable[..., Any])
Reverse = Callable[..., Any]
RangeMap = Callable[..., Tensor] | Literal["through", "within"] | None


@dataclass(frozen=True)
class Rule:
    """How one forward operation appears in the reverse pass (Section 3 of the paper).

    Attributes:
        reverse: ``reverse(estimate, *args, **kwargs)``, see :func:`register_reverse`.
        layer: ``"conv"`` or ``"linear"`` if the operation has weights of its own, so that its input is an L_m of
            Eq. 1; else None.
        range: how an estimate of the operation's output gets the output's range of values.
        operands: the number of data operands the rule is right for; None means any.
        partial: whether even a complete estimate of the output leaves some of the input unknown (a slice).
        informs: how knowledge passes through the reverse, if asking ``reverse`` itself with ones does not show it.
    """

    reverse: Reverse
    layer: Literal["conv", "linear"] | None = None
    range: RangeMap = None
    operands: int | None = None
    partial: bool = False
    informs: Reverse | None = None


_RULES: dict[Callable[..., Any], Rule] = {}


@overload
def register_reverse(
    op: Callable[..., Any],
    reverse: R,
    *,
    layer: Literal["conv", "linear"] | None = None,
    range: RangeMap = None,
    operands: int | None = None,
    partial: bool = False,
    informs: Reverse | None = None,
) -> R: ...
@overload
def register_reverse(
    op: Callable[..., Any],
    reverse: None = None,
    *,
    layer: Literal["conv", "linear"] | None = None,
    range: RangeMap = None,
    operands: int | None = None,
    partial: bool = False,
    informs: Reverse | None = None,
) -> Callable[[R], R]: ...
def register_reverse(
    op: Callable[..., Any],
    reverse: Reverse | None = None,
    *,
    layer: Literal["conv", "linear"] | None = None,
    range: RangeMap = None,
    operands: int | None = None,
    partial: bool = False,
    informs: Reverse | None = None,
) -> Any:
    """Give a forward operation its place in the reverse pass. Also usable as a decorator.

    Args:
        op: the operation as the exported graph has it, e.g. ``torch.ops.aten.relu.default`` or the overload of a
            custom operation (``torch.library``).
        reverse: ``reverse(estimate, *args, **kwargs)``. ``args`` and ``kwargs`` are those of the forward call, its
            tensors with their forward values. ``estimate`` has the shape of the forward output. Returns the estimate
            of the data operand, or a tuple with one estimate (or None: not known) per tensor argument, in order;
            each has the shape of the forward tensor. A rule with a parameter ``data`` is told, as a tuple of bools,
            which tensor arguments are to be estimated: those that depend on the network's input, but of a product of
            two activations only the one that is not the coefficient. A rule with a parameter ``known`` is told, as a
            bool tensor that broadcasts to ``estimate``, which entries are known (None: all); unknown ones are 0. If
            the forward operation returns a tuple, ``estimate`` (and ``known``) are lists.
        layer: ``"conv"`` or ``"linear"`` for operations with weights of their own: their input is compared (Eq. 1)
            and what ``reverse`` returns is mapped to the range of that input.
        range: how to map an estimate to the range of this operation's output: a function
            ``range(estimate, *args, **kwargs)`` for activations and norms, ``"through"`` for operations that keep
            range and layout (pooling, dropout), ``"within"`` for those that only move values (reshape, cat), None for
            those that end the block (weights, sums).
        operands: refuse the operation unless it has this many operands to estimate.
        partial: the operation drops some of its input (a slice): where ``reverse`` passes nothing on is unknown, and
            masked out of the loss.
        informs: which entries a rule passes on is found by calling it with ones in place of every floating tensor. A
            rule in which ones saturate or cancel gives a function of the same arguments to be called in its place: what
            it returns differs from what it returns for zeros where the rule's own estimate is known.

    Example:
        >>> import torch, racecar
        >>> @racecar.register_reverse(torch.ops.aten.rot90.default, range="within")
        ... def rot90(estimate, x, k=1, dims=(0, 1)):
        ...     return torch.rot90(estimate, -k, dims)
    """
    if reverse is None:
        return lambda function: register_reverse(
            op, function, layer=layer, range=range, operands=operands, partial=partial, informs=informs
        )
    if not callable(op) or isinstance(op, type):
        raise TypeError(f"register_reverse needs an operation such as torch.ops.aten.relu.default, not {op!r}")
    if isinstance(op, torch._ops.OpOverloadPacket):
        raise TypeError(f"{op} has several overloads ({', '.join(op.overloads())}): name one, e.g. {op}.default")
    if not callable(reverse):
        raise TypeError(f"the reverse rule of {op} must be a function, not {reverse!r}")
    if layer not in (None, "conv", "linear"):
        raise TypeError(f"layer must be 'conv', 'linear' or None, not {layer!r}")
    if not (range is None or range in ("through", "within") or callable(range)):
        raise TypeError(f"range must be a function, 'through', 'within' or None, not {range!r}")
    _RULES[op] = Rule(reverse, layer, range, operands, partial, informs)
    return reverse


def find_rule(op: object) -> Rule | None:
    """The rule of an operation, or None."""
    return _RULES.get(op)  # type: ignore[call-overload]


def unchanged(estimate: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The reverse of activations, norms, dropout and identities: nothing on the way back."""
    return estimate


def zero_unknown(estimate: Tensor, known: Tensor | None) -> Tensor:
    """0 where an estimate is not known."""
    return estimate if known is None else torch.where(known, estimate, 0)


def refuse_data_as_weights(usual: bool) -> None:
    """Refuse an operation whose data stands where its rule takes weights: ``F.linear(weights, data)``."""
    if not usual:
        raise NotImplementedError("the network's input reaches it in place of its weights")
