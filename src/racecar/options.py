"""The arguments of ``Racecar`` as one object: what each may be is checked here, before anything is derived.

A new argument needs its field, its check and its words here, its place in the constructor (:mod:`racecar.module`), and
what it does in the stage it belongs to. Model cards, ``explain()`` and ``repr`` read :meth:`Options.as_dict`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.errors import ArgumentError

Layers = int | str | Sequence[str] | None
InputRange = Callable[[Tensor], Tensor] | Literal["paper"] | None
NormStatistics = Literal["separate", "shared"]
Reduction = Literal["mean", "sum"]
Weight = float | Sequence[float] | Tensor
Checkpoint = bool | Literal["both"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a :class:`racecar.Racecar` was asked for: its keyword arguments, of which it says what they mean.

    Attributes:
        layers, start, reduction, input_range, norm_statistics: as given.
        every, fraction, layerwise, subset, checkpoint: the cheaper ways, as given.
        weight: as given; :func:`racecar.balance` may have set others since: ``rr.lambdas`` counts.
        decoder: whether one was given.

    Raises:
        ArgumentError: one of them cannot be, whatever the model.
    """

    layers: Layers = None
    start: str | None = None
    weight: Weight = 1.0
    reduction: Reduction = "mean"
    input_range: InputRange = None
    norm_statistics: NormStatistics = "separate"
    decoder: bool = False
    every: int = 1
    fraction: float = 1.0
    layerwise: bool = False
    subset: int | None = None
    checkpoint: Checkpoint = False
    verify: bool = True

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise ArgumentError(f"reduction must be 'mean' or 'sum', not {self.reduction!r}")
        if self.norm_statistics not in ("separate", "shared"):
            raise ArgumentError(f"norm_statistics must be 'separate' or 'shared', not {self.norm_statistics!r}")
        if self.input_range is not None and self.input_range != "paper" and not callable(self.input_range):
            raise ArgumentError(f"input_range must be None, 'paper' or a function, not {self.input_range!r}")
        if not _whole(self.every):
            raise ArgumentError(f"every must be a whole number of training calls, 1 or more, not {self.every!r}")
        fraction = self.fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise ArgumentError(f"fraction must be a share of the batch, above 0 and at most 1, not {fraction!r}")
        if self.subset is not None and not _whole(self.subset):
            raise ArgumentError(f"subset must be a number of layers, 1 or more, or None, not {self.subset!r}")
        for name in ("layerwise", "verify"):
            if not isinstance(value := getattr(self, name), bool):
                raise ArgumentError(f"{name} must be True or False, not {value!r}")
        if not isinstance(self.checkpoint, bool) and self.checkpoint != "both":
            raise ArgumentError(f"checkpoint must be True, False or 'both', not {self.checkpoint!r}")
        if self.checkpoint == "both" and self.subset is not None:
            raise ArgumentError("checkpoint='both' runs all layers: with subset= use checkpoint=True")
        if self.checkpoint and self.norm_statistics == "shared":
            raise ArgumentError(
                f"checkpoint={self.checkpoint!r} runs the reverse pass twice, so that norm_statistics='shared' would "
                "count its statistics twice: choose one of them"
            )

    @property
    def untied(self) -> bool:
        """Whether the reverse pass has weights of its own, those of a decoder."""
        return self.decoder

    def as_dict(self) -> dict[str, Any]:
        """All of them in the order of the constructor, as JSON holds them: a function by its name, λ as numbers."""
        return {field.name: _as_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def changed(self, *apart_from: str) -> dict[str, Any]:
        """Those of :meth:`as_dict` that are not the default."""
        usual = Options().as_dict()
        return {k: v for k, v in self.as_dict().items() if k not in apart_from and v != usual[k]}

    def lambdas(self, count: int, model: nn.Module, device: torch.device) -> Tensor:
        """λ as one number per compared layer, [count], in at least single precision.

        Raises:
            ArgumentError: the wrong number of them, negative or not finite.
        """
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        dtype, weight = torch.promote_types(like.dtype, torch.float32), self.weight
        try:
            values = torch.as_tensor(weight, dtype=dtype).detach().to(device)
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


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value


# --- model, decoder and example ---------------------------------------------------------------------------------------


def check_model(model: object) -> None:
    """Refuse what is no module.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, not {type(model).__name__}")


def check_decoder(decoder: object, model: nn.Module) -> None:
    """Refuse a decoder that does not have the model's parameters.

    Raises:
        ArgumentError: it has others, is the model itself or no module.
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


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as the positional and keyword arguments of a call.

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


def positional_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the model's arguments that can be given by position.

    Raises:
        ArgumentError: the example inputs do not fit the model's ``forward``.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++
        return []
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"example_inputs do not fit {type(model).__name__}.forward{signature}: {error}") from error
    return [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


class Example:
    """Shapes and types of example inputs, to derive from them again: small, and picklable.

    Args:
        args, kwargs: of the call.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._call = pytree.tree_map_only(
            Tensor, lambda t: _Shape(tuple(t.shape), tuple(t.stride()), t.dtype), (args, dict(kwargs))
        )

    def inputs(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of such a call: zeros, and masks that hide nothing."""
        return pytree.tree_map_only(_Shape, lambda shape: shape.zeros(device), self._call)


@dataclass(frozen=True)
class _Shape:
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def zeros(self, device: torch.device) -> Tensor:
        value = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device)
        return value.fill_(self.dtype == torch.bool)
