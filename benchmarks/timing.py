"""What the benchmarks share: steps that take turns within one run, so that their ratio holds on a noisy machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Step = Callable[[], None]


def keep_freed_memory() -> None:
    """Start again with an allocator that keeps what is freed: glibc hands large blocks back to the system.

    The next tensor of that size would then pay for new pages, which takes up to half of a step on a CPU.
    """
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    if sys.platform == "linux" and DEVICE.type == "cpu" and not keep.keys() & os.environ.keys():
        os.environ.update(keep)
        os.execv(sys.executable, sys.orig_argv)


def turns(steps: dict[str, Step], seconds: float, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Best time of each, in seconds; they take turns for at least so long and at least four times each.

    Args:
        steps: by name.
        seconds: in all.
        clock: ``time.process_time`` leaves out what other processes take, of steps on one thread of a CPU.
    """
    for step in steps.values():
        step()
        step()
    found = dict.fromkeys(steps, float("inf"))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end or count < 4:
        count += 1
        for name, step in steps.items():
            began = clock()
            step()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            found[name] = min(found[name], clock() - began)
    return found


def flops(step: Step) -> int:
    """Of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
