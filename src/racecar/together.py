"""Processes that train one Racecar together, under DistributedDataParallel or FSDP2: what all must do alike.

Whoever wraps a Racecar has all processes call it equally often, so that they can be asked at every call.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from racecar.errors import ArgumentError
from racecar.sharded import mesh_of


class Together(NamedTuple):
    """The processes of one call.

    Attributes:
        groups: over which an all-reduce, one after the other, reaches all of them.
    """

    groups: tuple[Any, ...]

    def largest(self, values: Tensor) -> Tensor:
        """Element by element, of all processes' values; in place."""
        for group in self.groups:
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group)
        return values

    def check_turn(self, position: int, device: torch.device) -> None:
        """Refuse turns of ``every`` that have come apart.

        Raises:
            ArgumentError: on all processes.
        """
        last, first = self.largest(torch.tensor([position, -position], device=device)).tolist()
        if last != -first:
            raise ArgumentError(
                f"the processes' turns of every= have come apart: one is {-first} calls behind its last reverse pass, "
                f"another {last} (one has called alone, or restored another count): set rr.calls to the step on all"
            )


class Wrapping:
    """Who has wrapped a Racecar, and what DistributedDataParallel waited for at the first call in it."""

    def __init__(self) -> None:
        self._ddp: weakref.ref[nn.Module] | None = None
        self._inside = False
        self._trained: list[tuple[str, nn.Parameter]] = []

    def processes(self, rr: nn.Module, model: nn.Module, untied: bool) -> Together | None:
        """The processes that call a Racecar together now; None: this one is alone, or nobody has wrapped it.

        Args:
            rr: the Racecar; its forward is running.
            model: its model, which alone is wrapped in some frameworks.
            untied: it has a decoder of its own.

        Raises:
            ArgumentError: what DistributedDataParallel would end the process for, a step later and in other words; or
                ``Join`` with SyncBatchNorm.
        """
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        ddp = nn.parallel.DistributedDataParallel._active_ddp_module
        if ddp is None:
            mesh = mesh_of(rr)
            return None if mesh is None else Together(tuple(mesh.get_group(d) for d in range(mesh.ndim)))
        if self._ddp is None or self._ddp() is not ddp:
            self._ddp, self._inside = weakref.ref(ddp), any(module in (rr, model) for module in ddp.modules())
            self._trained = [(name, p) for name, p in rr.named_parameters() if p.requires_grad]
        if not self._inside:
            return None
        if ddp._join_config.enable:  # those that have run out of data answer DDP's own questions alone
            _check_join(ddp)
            return None
        if not ddp.find_unused_parameters and not ddp.static_graph:
            self._check_gradients(untied)
        return Together((ddp.process_group,))

    def _check_gradients(self, untied: bool) -> None:
        if untied:
            raise ArgumentError(
                "an untied decoder has parameters without a gradient (its biases, what lies behind the start, and with "
                "every= all of them in most calls): DistributedDataParallel(rr, find_unused_parameters=True)"
            )
        if frozen := [name for name, parameter in self._trained if not parameter.requires_grad]:
            raise ArgumentError(
                f"{frozen[0].partition('.')[2]!r} was frozen after DistributedDataParallel had wrapped the Racecar, "
                "and it waits for its gradient: freeze first and wrap again, or give find_unused_parameters=True"
            )


def _check_join(ddp: nn.parallel.DistributedDataParallel) -> None:
    synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in ddp.modules())
    if synchronised and not ddp._join_config.throw_on_early_termination:
        raise ArgumentError(
            "Join with SyncBatchNorm: processes that have run out of data do not share their statistics, and the "
            "others would wait for them forever: Join([ddp], throw_on_early_termination=True), or plain batch norm"
        )
