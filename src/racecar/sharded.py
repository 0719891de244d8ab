"""Weights that FSDP2 has sharded, layer by layer: whole while an operation reads them, and no longer.

A program calls no module, so that nobody would gather their weights: it does so itself, by :class:`Gathering`. What
autograd keeps of them is their name, and the backward pass gathers them again. Gradients are averaged over the
processes and scattered for the forward and for the reverse use of a weight, one after the other: to sum them first,
every whole gradient would have to be kept from the one to the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from racecar.errors import ArgumentError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(weight: object) -> TypeGuard[DTensor]:
    """Whether a weight is a DTensor, asked without an import of torch.distributed.tensor."""
    return isinstance(weight, Tensor) and type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "device_mesh")


class Precision(NamedTuple):
    """Of FSDP's ``MixedPrecisionPolicy``.

    Attributes:
        whole: of a gathered weight; None: its own.
        reduced: in which gradients are summed over processes; None: that of the gathered weight.
    """

    whole: torch.dtype | None = None
    reduced: torch.dtype | None = None


def sharded_by_fsdp(rr: nn.Module) -> dict[int, Precision]:
    """By ``id`` of the weight, those that FSDP2 has sharded, and their precision."""
    found: dict[int, Precision] = {}
    for module in rr.modules():  # what stands inside comes later, and has the last word
        if (state := _state(module)) is not None:
            policy = state._mp_policy
            for weight in module.parameters():
                found[id(weight)] = Precision(policy.param_dtype, policy.reduce_dtype)
    return found


def check_sharded(rr: nn.Module, weights: Sequence[Tensor]) -> dict[int, Precision]:
    """The precision of every sharded weight of a program, by its position.

    Args:
        rr: the Racecar.
        weights: all that the program reads.

    Raises:
        ArgumentError: a weight is divided by something else than FSDP2, or others are whole and nobody averages their
            gradients.
    """
    found, named = sharded_by_fsdp(rr), {id(w): n.partition(".")[2] for n, w in rr.named_parameters()}
    for weight in filter(is_sharded, weights):
        places = [type(p).__name__ for p in weight.placements]  # type: ignore[attr-defined]
        if id(weight) not in found or not {"Shard", "Replicate"}.issuperset(places):
            raise ArgumentError(
                f"the weight {named.get(id(weight), '')!r} is divided among processes by something else than FSDP2 "
                "(tensor parallel?), with which the reverse pass was not made to work: divide the model by fully_shard "
                "alone, or train this part of it without racecar"
            )
    whole = [w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad and not is_sharded(w)]
    states = [state for state in map(_state, rr.modules()) if state is not None]
    if whole and states[0]._is_root is None:  # no root has begun a pass around them
        raise ArgumentError(
            f"some layers are sharded, but {named.get(id(whole[0]), '')!r} is not, and nobody averages its gradient "
            "over the processes: after the layers shard the Racecar itself, fully_shard(rr), and call rr"
        )
    return {i: found[id(w)] for i, w in enumerate(weights) if is_sharded(w)}


def mesh_of(rr: nn.Module) -> Any:
    """The mesh of processes over which FSDP2 averages the gradients of a Racecar that it wraps; None: it does not."""
    if _state(rr) is None:
        return None
    for state in filter(None, map(_state, rr.modules())):
        # torch 2.11 has one group at most, later versions several.
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        if groups[0] is not None:
            return groups[0].mesh_info.mesh
    return None


def _state(module: nn.Module) -> Any:
    """FSDP2's own record of a module that was given to ``fully_shard``."""
    return module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None  # type: ignore[operator]


def run_gathered(
    program: Callable[..., Any], precision: dict[int, Precision], weights: Sequence[Tensor], operands: Sequence[Any]
) -> Any:
    """What a program of :mod:`racecar.passes.gathered` gives.

    Args:
        program: of (a call's :class:`Gathering`, weights…, operands…).
        precision: of its sharded weights, from :func:`check_sharded`.
        weights: some of them sharded.
        operands: what else the program takes.
    """
    gathering = Gathering(precision)
    with gathering.saving():
        return program(gathering, *weights, *operands)


def check_uncompiled() -> None:
    """Refuse torch.compile, which leaves modules of FSDP2 alone and takes up what they call, piece by piece.

    Raises:
        ArgumentError: it is running.
    """
    if torch.compiler.is_compiling() or (
        "torch._dynamo" in sys.modules and torch._C._dynamo.eval_frame.get_eval_frame_callback() is not None
    ):
        raise ArgumentError(
            "layers that are sharded each for itself are gathered in Python, which torch.compile cannot take in: shard "
            "the Racecar at its root alone, or leave torch.compile out"
        )


# --- one call's weights -----------------------------------------------------------------------------------------------


class Gathering:
    """The sharded weights of one call of a program.

    Args:
        precision: by position among the program's weights, of every sharded one.
    """

    def __init__(self, precision: dict[int, Precision]) -> None:
        self._precision = precision
        self._here: dict[int, _Gathered] = {}  # by the address of its storage, while an operation reads it
        self._kept: list[list[_Gathered]] = [[]]  # what autograd keeps of the call, operation by operation, in order
        self._coming: dict[int, dict[int, _Coming]] = {}  # by operation and place, for the backward pass

    def begin(self, weight: Tensor, position: int, lowered: bool) -> _Gathered:
        """Begin to gather a weight.

        Args:
            weight: a DTensor.
            position: among the program's weights. (Where a segment is computed again, it is another object.)
            lowered: it is read by an operation that autocast runs in its lower precision, biases apart.
        """
        device = weight.device_mesh.device_type  # type: ignore[attr-defined]
        dtype, reduced = self._precision[position]
        if (
            dtype is None
            and lowered
            and weight.ndim > 1
            and torch.is_autocast_enabled(device)
            and weight.dtype is torch.float32
        ):
            dtype = torch.get_autocast_dtype(device)
        return _Gathered(weight, dtype or weight.dtype, reduced)

    def whole(self, gathered: _Gathered) -> Tensor:
        """The whole weight, differentiable."""
        value = _Whole.apply(gathered.weight, gathered)
        self._here[value.untyped_storage().data_ptr()] = gathered
        return value

    def free(self, *values: Tensor) -> None:
        """What an operation has read is not read again: autograd has kept its name."""
        for value in values:
            self._here.pop(value.untyped_storage().data_ptr(), None)
        if self._kept[-1]:
            self._kept.append([])

    def saving(self) -> AbstractContextManager[Any]:
        """Autograd keeps the names of whole weights in place of the weights while it lasts."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Any:
        gathered = self._here.get(tensor.untyped_storage().data_ptr()) if self._here else None
        if gathered is None:
            return tensor.detach()  # an operation's own output would otherwise hold the operation, and never go
        self._kept[-1].append(gathered)
        at = len(self._kept) - 1, len(self._kept[-1]) - 1
        return _Kept(*at, tensor.shape, tensor.stride(), tensor.storage_offset())

    def _unpack(self, kept: Any) -> Tensor:
        if not isinstance(kept, _Kept):
            return kept  # type: ignore[no-any-return]
        # The backward pass reads the operations from the last one to the first: the one before is begun ahead.
        near = [operation for operation in (kept.operation, kept.operation - 1) if operation >= 0]
        for operation in near:
            if operation not in self._coming:
                self._coming[operation] = {i: g.begun() for i, g in enumerate(self._kept[operation])}
        self._coming = {operation: self._coming[operation] for operation in near}
        coming = self._coming[kept.operation].pop(kept.place, None) or self._kept[kept.operation][kept.place].begun()
        return coming.arrived().as_strided(kept.size, kept.stride, kept.offset)


class _Gathered:
    """A weight and the precisions in which it is whole and its gradient summed; gathered when made, and when asked."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, reduced: torch.dtype | None) -> None:
        self.weight, self.dtype, self.reduced = weight, dtype, reduced
        self._first: _Coming | None = self.begun()

    @torch.no_grad()
    def begun(self) -> _Coming:
        """The whole weight, maybe still on its way."""
        from torch.distributed.tensor import Replicate

        weight = self.weight.detach().to(self.dtype)
        everywhere = [Replicate()] * weight.device_mesh.ndim  # type: ignore[attr-defined]
        beside = gathers_beside_computing(weight.device_mesh.device_type)  # type: ignore[attr-defined]
        return _Coming(weight.redistribute(placements=everywhere, async_op=beside).to_local())  # type: ignore[attr-defined]

    def take(self) -> Tensor:
        """The one that was begun when this was made."""
        coming, self._first = self._first, None
        assert coming is not None
        return coming.arrived()


def gathers_beside_computing(device: str) -> bool:
    """Whether a weight travels while operations compute.

    Not between processors: with two collective operations under way at once gloo now and then corrupts the memory of
    its process (``results/gloo.md``).
    """
    return device != "cpu"


class _Coming:
    """A whole weight, maybe on its way; let go before it has arrived, it is waited for, as torch asks for."""

    def __init__(self, value: Tensor) -> None:
        self._value = value

    def arrived(self) -> Tensor:
        """The whole weight."""
        from torch.distributed._functional_collectives import AsyncCollectiveTensor

        if isinstance(self._value, AsyncCollectiveTensor):
            self._value = self._value.wait()
        return self._value

    def __del__(self) -> None:
        self.arrived()


class _Kept(NamedTuple):
    """What autograd keeps of a whole weight: its operation, its place there, and which view of it was saved."""

    operation: int
    place: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


class _Whole(torch.autograd.Function):
    """A DTensor's whole value; backwards the mean of the processes' gradients, scattered."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gathered: _Gathered) -> Tensor:
        ctx.weight, ctx.reduced = weight, gathered.reduced
        return gathered.take()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from torch.distributed.tensor import DTensor, Partial

        weight = ctx.weight
        mesh = weight.device_mesh
        mean = gradient.to(ctx.reduced or weight.dtype) / mesh.size()
        partial = DTensor.from_local(mean.contiguous(), mesh, [Partial()] * mesh.ndim, run_check=False)
        return partial.redistribute(placements=weight.placements).to(weight.dtype), None
