"""Device, processes and precision of a training, from Accelerate."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from racecar.study.core.errors import StudyError


def make_accelerator() -> Accelerator:
    """Device, processes and precision as ``accelerate launch`` or ``torchrun`` say, else one process.

    Raises:
        StudyError: the processes were started, but not for each other.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Without an accelerator, Accelerate takes started processes for single ones unless told to use the CPU.
    cpu = started > 1 and not torch.accelerator.is_available()
    # One process may download and prepare a large set while the others wait.
    patience = [InitProcessGroupKwargs(timeout=timedelta(hours=6))] if started > 1 else None
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=patience)
    if accelerator.num_processes != started:
        raise StudyError(
            f"{started} processes were started, but each finds {accelerator.num_processes}: start them by "
            "`accelerate launch` or `torchrun`"
        )
    return accelerator


def reset_accelerator() -> None:
    """Forget the process-wide state, so that another precision or process group can follow (tests)."""
    AcceleratorState._reset_state(reset_partial_state=True)
