"""What the benchmarks share: the memory that a step needs at its peak."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import DEVICE, Step


def memory(step: Step) -> int:
    """Bytes that a step needs beyond what is there before it."""
    step()
    step()
    gc.collect()
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def mebibytes_in_a_process(words: Sequence[str]) -> float | None:
    """What a script prints last, bytes, as MiB; None where the system does not tell the peak of a process."""
    if DEVICE.type == "cpu" and sys.platform != "linux":
        return None
    # What is freed must go back at once, or the peak would be what the allocator keeps.
    freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
    command = [sys.executable, *words]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **freed})
    return int(found.stdout.split()[-1]) / 2**20
