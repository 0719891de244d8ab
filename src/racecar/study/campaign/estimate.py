"""How long an item takes on a device: its arithmetic over what the device can do, and operations times their launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from racecar.study.core.ceilings import Ceilings
from racecar.study.studies import spec_of

SHARE = 0.35  # of the ceiling that a training step reaches: assumed
BESIDE = 60  # operations of a step beside the network's: augmentation, loss, optimiser, the loop: assumed
Read = Callable[..., Any]  # a study's name and its options → its configuration


@dataclass(frozen=True)
class Study:
    """A study whose cost, less what its folder holds already, counts the units of some work.

    Attributes:
        name: of the study.
        options: of its command.
        folder: its ``--out``.
    """

    name: str
    options: tuple[str, ...]
    folder: Path

    def units(self, read: Read) -> int:
        """What is left to do, in the unit of the study's cost."""
        spec = spec_of(self.name)
        config = read(self.name, *self.options)
        if (self.folder / "study.json").exists():
            study, _ = spec.reopen(self.folder)
            total, done = spec.division.work(study, config, config.runs())
            return total - done
        return sum(spec.division.cost(config, run) for run in config.runs())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Work:
    """Plain training steps of a network.

    Attributes:
        network: makes it.
        shape: of a batch.
        steps: how many; with a study, per unit of its cost.
        study: whose units count.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: float
    study: Study | None = None

    def seconds(self, on: Ceilings, read: Read) -> float:
        """On a device, in bfloat16."""
        units = 1 if self.study is None else self.study.units(read)
        if not units:
            return 0.0
        flops, operations = step(self.network, self.shape)
        return units * self.steps * max(flops / (SHARE * on.half), operations * on.launch)


def step(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[int, int]:
    """FLOPs and operations of a plain training step, counted without computing it.

    Args:
        network: makes it.
        shape: of a batch.
    """
    with torch.device("meta"):
        net, x = network(), torch.empty(shape)
    with FlopCounterMode(display=False) as flops, _Operations() as operations:
        net(x).sum().backward()
    return flops.get_total_flops(), operations.count + BESIDE


class _Operations(TorchDispatchMode):
    """Counts what a device would be told to do: every operation that is no view."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
