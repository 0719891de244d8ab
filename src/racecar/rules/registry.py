"""The public registry of reverse rules, keyed by ATen operation, and the contract a rule keeps.

This file knows no operation. The rules themselves stand beside it, one file per family.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

R = TypeVar("R", bound=Callable[..., Any])
Reverse = Callable[..., Any]
RangeMap = Callable[..., Tensor] | Literal["through", "within"] | None


class ReverseCall(NamedTuple):
    """What a rule registered with ``context=True`` is told beside the estimate and the forward arguments.

    A named tuple, so that a graph can hold one whose masks are values of the graph. Read it by name: fields may be
    added.

    Attributes:
        estimated: per tensor argument of the forward call, in order, whether it is to be estimated: it depends on the
            network's input, and is not the coefficient of a product of two activations.
        known: per output of the forward operation which entries of its estimate are known: a bool tensor that
            broadcasts to the estimate, or None: all. Unknown entries of an estimate are 0.
        average: the operation is a product whose coefficient is attention weights: their transpose must be scaled so
            that an estimate of averages becomes one of what was averaged.
        varies: per tensor argument of the forward call whether its value may differ from call to call: it depends on
            the network's input, on a parameter, on random numbers or on a buffer that the model updates. What is known
            may hang on the values of the others alone. None: as ``estimated``.

    Example:
        >>> import torch, racecar
        >>> call = racecar.ReverseCall(estimated=(True, False))
        >>> call.known, call.average
        ((None,), False)
    """

    estimated: tuple[bool, ...]
    known: tuple[Tensor | None, ...] = (None,)
    average: bool = False
    varies: tuple[bool, ...] | None = None

    def changes(self, position: int) -> bool:
        """Whether a tensor argument of the forward call may differ from call to call, see ``varies``."""
        return (self.estimated if self.varies is None else self.varies)[position]


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
        context: whether ``reverse`` and ``informs`` take a keyword ``context``, a :class:`ReverseCall`.
    """

    reverse: Reverse
    layer: Literal["conv", "linear"] | None = None
    range: RangeMap = None
    operands: int | None = None
    partial: bool = False
    informs: Reverse | None = None
    context: bool = False


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
    context: bool = False,
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
    context: bool = False,
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
    context: bool = False,
) -> Any:
    """Give a forward operation its place in the reverse pass. Also usable as a decorator.

    A rule is a function of tensors and calls no module. While a palindrome is derived it is called several times, and
    never on the values of a batch: on fake tensors, which have shape and type alone; on tensors that only know their
    size, to see whether it reads anything else of the forward values (those need not be kept then); and, where only a
    part of an estimate is known, on ones and zeros of float64 on the CPU, to see which entries it passes on (its
    context then says that all are known). So it must not branch on values, count its calls or expect a device or type.

    Args:
        op: the operation as the exported graph has it, e.g. ``torch.ops.aten.relu.default`` or the overload of a
            custom operation (``torch.library``).
        reverse: ``reverse(estimate, *args, **kwargs)``. ``args`` and ``kwargs`` are those of the forward call, its
            tensors with their forward values. ``estimate`` has the shape of the forward output; it is a list if the
            forward operation returns several. Returns the estimate of the data operand, or a tuple with one estimate
            (or None: not known) per tensor argument, in order; each has the shape of the forward tensor.
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
        context: the rule needs to know more of the call: which arguments are to be estimated, which entries of the
            estimate are known, whether it is an average. ``reverse`` (and ``informs``) then get it as one more keyword,
            ``context``, a :class:`ReverseCall`. Rules that take ``data``, ``known`` or ``average`` as keywords instead,
            without being arguments of the operation, are deprecated: from the next release on they get none.

    Raises:
        TypeError: an argument is not of its kind, or ``op`` stands for several overloads.

    Example:
        >>> import torch, racecar
        >>> @racecar.register_reverse(torch.ops.aten.rot90.default, range="within")
        ... def rot90(estimate, x, k=1, dims=(0, 1)):
        ...     return torch.rot90(estimate, -k, dims)

        >>> @racecar.register_reverse(torch.ops.aten.hypot.default, operands=1, context=True)
        ... def hypot(estimate, a, b, *, context: racecar.ReverseCall):
        ...     other = b if context.estimated[0] else a
        ...     return (estimate**2 - other**2).clamp(min=0).sqrt()
    """
    fields = (layer, range, operands, partial, informs, context)
    if reverse is None:
        return lambda function: _register(op, function, *fields)
    return _register(op, reverse, *fields)


def _register(
    op: Callable[..., Any],
    reverse: R,
    layer: Literal["conv", "linear"] | None,
    range: RangeMap,
    operands: int | None,
    partial: bool,
    informs: Reverse | None,
    context: bool,
) -> R:
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
    function: Reverse = reverse
    if not context and (keywords := _extra_keywords(op, reverse)):
        warnings.warn(
            f"the reverse rule of {op} takes {', '.join(keywords)} as keywords: register it with context=True and read "
            "them from its argument context, a racecar.ReverseCall (data is context.estimated)",
            DeprecationWarning,
            stacklevel=3,
        )
        function = _by_keywords(reverse, keywords)
        informs = informs and _by_keywords(informs, [k for k in keywords if k != "known"])
        context = True
    _RULES[op] = Rule(function, layer, range, operands, partial, informs, context)
    return reverse


def _extra_keywords(op: Callable[..., Any], reverse: Reverse) -> list[str]:
    """Which of the deprecated keywords a rule takes that are no arguments of the operation."""
    positional, names = _arguments(op)
    try:
        parameters = list(inspect.signature(reverse).parameters.values())[1:]
    except ValueError:  # written in C++
        return []
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {*names, *places[:positional]}
    return [p.name for p in parameters if p.name in ("data", "known", "average") and p.name not in taken]


def _arguments(op: Callable[..., Any]) -> tuple[int, list[str]]:
    """(how many arguments of an operation can stand by position, the names of all)."""
    if isinstance(op, torch._ops.OpOverload):
        arguments = op._schema.arguments
        return sum(not a.kwarg_only for a in arguments), [a.name for a in arguments]
    try:
        parameters = inspect.signature(op).parameters.values()
    except ValueError:
        return 0, []
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters), [p.name for p in parameters]


def _by_keywords(reverse: Reverse, keywords: list[str]) -> Reverse:
    """A rule of the deprecated kind as one that takes ``context``."""

    @functools.wraps(reverse)
    def adapted(estimate: Any, *args: Any, context: ReverseCall, **kwargs: Any) -> Any:
        known = list(context.known) if isinstance(estimate, list | tuple) else context.known[0]
        told = {"data": context.estimated, "known": known, "average": context.average}
        return reverse(estimate, *args, **kwargs, **{k: told[k] for k in keywords})

    return adapted


def find_rule(op: object) -> Rule | None:
    """The rule of an operation, or None."""
    return _RULES.get(op)  # type: ignore[call-overload]


def layer_operations() -> set[Callable[..., Any]]:
    """The operations with weights of their own, and their reverses."""
    return {f for op, rule in _RULES.items() if rule.layer is not None for f in (op, rule.reverse)}


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
