"""What the benchmarks share: steps that take turns within one run, so that their ratio holds on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Step = Callable[[], None]


def turns(steps: dict[str, Step], seconds: float) -> dict[str, float]:
    """Best time of each, in seconds; they take turns for at least so long and at least four times each."""
    for step in steps.values():
        step()
        step()
    found = dict.fromkeys(steps, float("inf"))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end or count < 4:
        count += 1
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            found[name] = min(found[name], time.perf_counter() - began)
    return found


def flops(step: Step) -> int:
    """Of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
