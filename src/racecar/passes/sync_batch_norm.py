"""SyncBatchNorm in the palindrome: both passes normalise by the statistics of the batch of all processes.

torch's own SyncBatchNorm is a layer of accelerators and of a process group that is there when it is called. A program
is derived once, perhaps on a CPU, perhaps before there are processes: so the norm is exported as plain batch norm, and
the programs then call the functions here, which ask for the other processes at every call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from racecar.forward.graph import module_path
from racecar.reverse.size_only import stands_for
from racecar.rules.normalization import NormCall, batch_norm_separate, batch_norm_shared, plain_batch_norm


def synchronised_batch_norm(*operands: Any, group: str | None = None) -> Tensor:
    """(N, C, …) → (N, C, …): batch norm over the N of all processes of ``group`` (None: of all there are).

    Operands as in :class:`racecar.rules.normalization.NormCall`. Without other processes, and with running statistics
    (not ``training``), it is torch's batch norm.
    """
    return _synchronised(NormCall(*operands), group)


def synchronised_separate(estimate: Tensor, *operands: Any, group: str | None = None) -> Tensor:
    """:func:`racecar.rules.normalization.batch_norm_separate`, by the statistics of all processes' estimates."""
    return _synchronised(NormCall(*operands).separate(estimate), group)


def synchronised_shared(estimate: Tensor, *operands: Any, group: str | None = None) -> Tensor:
    """:func:`racecar.rules.normalization.batch_norm_shared`, by the statistics of all processes' estimates."""
    return _synchronised(NormCall(*operands).shared(estimate), group)


def synchronised_plain(estimate: Tensor, group: str | None = None) -> Tensor:
    """:func:`racecar.rules.normalization.plain_batch_norm`, by the statistics of all processes' estimates."""
    return _synchronised(NormCall.plain(estimate), group)


def _synchronised(norm: NormCall, group: str | None) -> Tensor:
    if not norm.training or not _several(group):
        return norm.batch_norm()
    x, running_mean, running_var = norm.x, norm.running_mean, norm.running_var
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = values.new_full((1,), values.numel() // values.shape[1])
    sums = _Sum.apply(torch.cat([values.sum(dims), count]), group)
    count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims), group) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), norm.momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), norm.momentum)
    result = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.weight is not None:
        result = result * norm.weight.view(shape)
    if norm.bias is not None:
        result = result + norm.bias.view(shape)
    return result.to(x.dtype)


@contextlib.contextmanager
def as_plain_norms(model: nn.Module) -> Iterator[None]:
    """Export every SyncBatchNorm as the batch norm that it is in one process."""
    norms = [m for m in model.modules() if type(m).forward is nn.SyncBatchNorm.forward and "forward" not in vars(m)]
    try:
        for module in norms:
            module.forward = MethodType(_BatchNorm.forward, module)  # type: ignore[method-assign]
        yield
    finally:
        for module in norms:
            vars(module).pop("forward", None)


def synchronise(program: fx.GraphModule, model: nn.Module) -> None:
    """Let a program derived under :func:`as_plain_norms` share statistics where the model does, in both passes.

    In evaluation mode nothing is shared, as one process may then be alone in calling.
    """
    groups: dict[Any, str | None] = {}  # by what is normalised and the running statistics, which are the norm's own
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default and NormCall(*node.args).training:
            module = model.get_submodule(module_path(node))
            if isinstance(module, nn.SyncBatchNorm):
                group = None if module.process_group is None else module.process_group.group_name
                groups[_identity(*node.args)] = group
                node.target, node.kwargs = synchronised_batch_norm, {"group": group}
    if not groups:
        return
    for node in program.graph.nodes:
        if node.target in _REVERSE and (key := _identity(*node.args[1:])) in groups:
            node.target, node.kwargs = _REVERSE[node.target], {"group": groups[key]}
        elif node.target is plain_batch_norm:
            node.target, node.kwargs = synchronised_plain, {"group": next(iter(groups.values()))}
    program.recompile()


def _identity(*operands: Any) -> tuple[Any, ...]:
    """What tells a norm of a graph from others: the value that it normalises, and its running statistics."""
    norm: Any = NormCall(*operands)
    return stands_for(norm.x), norm.running_mean, norm.running_var


_REVERSE = {batch_norm_separate: synchronised_separate, batch_norm_shared: synchronised_shared}


def _several(group: str | None) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return False
    return group is not None or dist.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """Sum over processes; so is the gradient, as every process's loss hangs on it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: str | None) -> Tensor:
        ctx.group = group
        return _sum(value, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.group), None


def _sum(value: Tensor, group: str | None) -> Tensor:
    from torch.distributed import _functional_collectives as collectives  # the ones that torch.compile can trace

    chosen: Any = dist.group.WORLD if group is None else group
    return collectives.wait_tensor(collectives.all_reduce(value.contiguous(), "sum", chosen))
