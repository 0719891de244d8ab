"""The arguments of ``Racecar``: what is wrong with them is said before anything is derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from racecar.errors import ArgumentError

Weight = float | Sequence[float] | Tensor


def parameter_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the model's arguments that can be given by position."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++
        return []
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"example_inputs do not fit {type(model).__name__}.forward{signature}: {error}") from error
    return [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as the arguments of a call.

    Raises:
        ArgumentError: neither a tensor nor a tuple nor a dict.
    """
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise ArgumentError(
        f"example_inputs must be a tensor, a tuple of arguments or a dict of keywords, not {type(example).__name__}"
    )


def check_choices(model: object, reduction: object, input_range: object, norm_statistics: object) -> None:
    """Refuse what is no model, and choices that there are not.

    Raises:
        ArgumentError: see above.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction must be 'mean' or 'sum', not {reduction!r}")
    if norm_statistics not in ("separate", "shared"):
        raise ArgumentError(f"norm_statistics must be 'separate' or 'shared', not {norm_statistics!r}")
    if input_range is not None and input_range != "paper" and not callable(input_range):
        raise ArgumentError(f"input_range must be None, 'paper' or a function, not {input_range!r}")


def check_variant(options: Options) -> None:
    """Refuse cheaper variants that there are not.

    Raises:
        ArgumentError: see above.
    """
    fraction, subset = options.fraction, options.subset
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ArgumentError(f"fraction must be a share of the batch, above 0 and at most 1, not {fraction!r}")
    if subset is not None and (isinstance(subset, bool) or not isinstance(subset, int) or subset < 1):
        raise ArgumentError(f"subset must be a number of layers, 1 or more, or None, not {subset!r}")
    for name in ("layerwise", "checkpoint"):
        if not isinstance(value := getattr(options, name), bool):
            raise ArgumentError(f"{name} must be True or False, not {value!r}")
    if options.checkpoint and options.norm_statistics == "shared":
        raise ArgumentError(
            "checkpoint=True runs the reverse pass twice, so that norm_statistics='shared' would count its statistics "
            "twice: choose one of them"
        )


def check_decoder(decoder: object, model: nn.Module) -> None:
    """Refuse a decoder that does not have the model's parameters.

    Raises:
        ArgumentError: see above.
    """
    if not isinstance(decoder, nn.Module):
        raise ArgumentError(f"decoder must be a torch.nn.Module, not {type(decoder).__name__}")
    if decoder is model:
        raise ArgumentError("decoder is the model itself: give a copy, or None to share the weights")
    ours, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, decoder))
    if ours != theirs:
        differing = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        raise ArgumentError(
            f"decoder must have the model's parameters, but {', '.join(map(repr, differing[:5]))} differ: use e.g. "
            "copy.deepcopy(model)"
        )


def check_weight(weight: Weight, count: int, model: nn.Module) -> Tensor:
    """λ as one number per compared layer, [count], in at least single precision on the model's device.

    Raises:
        ArgumentError: the wrong number of them, negative or not finite.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = torch.promote_types(like.dtype, torch.float32)
    try:
        values = torch.as_tensor(weight, dtype=dtype).detach().to(like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"weight must be a number or one number per compared layer, not {weight!r}") from error
    if values.ndim == 0:
        values = values.repeat(count)
    if values.shape != (count,):
        raise ArgumentError(
            f"weight has {' × '.join(map(str, values.shape))} values, but {count} layers are compared: one λ each"
        )
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(f"weight must be finite and not negative, not {weight!r}")
    return values.clone()


Layers = int | str | Sequence[str] | None


InputRange = Callable[[Tensor], Tensor] | Literal["paper"] | None


NormStatistics = Literal["separate", "shared"]


@dataclass(frozen=True)
class Options:
    """What :class:`racecar.Racecar` was asked for; see there."""

    layers: Layers = None
    start: str | None = None
    reduction: Reduction = "mean"
    input_range: InputRange = None
    norm_statistics: NormStatistics = "separate"
    untied: bool = False
    layerwise: bool = False
    fraction: float = 1.0
    subset: int | None = None
    checkpoint: bool = False


Reduction = Literal["mean", "sum"]
