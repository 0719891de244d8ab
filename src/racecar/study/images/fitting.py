"""Images held in memory where they fit there, else decoded on the way: estimated and said before any is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from racecar.study.images.find import to_stderr
from racecar.study.images.labelled import Labelled
from racecar.study.images.load import Loaded, held, on_the_way
from racecar.study.images.seen import look

SHARE = 0.5  # of what is free, for images; the rest is for training
_GROUPS = (  # of control groups, versions 2 and 1: limit, what is used, and the line that says how much of it is cache
    ("memory.max", "memory.current", "memory.stat", "file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_cache"),
)


def load_fitting(
    source: str,
    *,
    stream: bool | None = None,
    decoders: int | None = None,
    device: torch.device | None = None,
    sharing: int = 1,
    skip_bad: bool = False,
    tell: Callable[[str], None] = to_stderr,
    **options: Any,
) -> Loaded[Labelled]:
    """Training and validation images of a data set, on a device.

    Args:
        source, tell, options: see :func:`racecar.study.images.seen.look`.
        stream: decode them on the way; None: if they do not fit.
        decoders: processes that decode then; None: one for every core but one, at most 8.
        device: where they are used; None: the CPU.
        sharing: training processes on this machine, each of which holds or decodes for itself.
        skip_bad: see :func:`racecar.study.images.load.load`.

    Raises:
        StudyError: whatever is wrong with the data, in one line.
    """
    device = device or torch.device("cpu")
    seen = look(source, tell=tell, **options)
    needed, free = seen.bytes * sharing, room(device)
    decoded = f"{seen.images} images of {' × '.join(map(str, seen.reader.shape))} take {_size(needed)} decoded"
    if stream is None:
        stream = needed > SHARE * free
        decoded += f", {_size(free)} are free"
    if not stream:
        tell(f"{decoded}: held in memory")
        return _on(device, held(seen, skip_bad, tell))
    processes = default_decoders(sharing) if decoders is None else decoders
    who = "this process" if not processes else f"{processes} process" + ("es" if processes > 1 else "")
    tell(f"{decoded}: decoded by {who} while the network trains")
    return _on(device, on_the_way(seen, processes, skip_bad, tell))


def _on(device: torch.device, loaded: Loaded[Labelled]) -> Loaded[Labelled]:
    return replace(loaded, train=loaded.train.to(device), validation=loaded.validation.to(device))


def default_decoders(sharing: int) -> int:
    """Decoding processes for each of so many training processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, (cores - 1) // sharing))


def room(device: torch.device) -> int:
    """Bytes that are free: of memory, as far as this process may use it, and of the device's."""
    free = psutil.virtual_memory().available
    for *numbers, stat, cache in _GROUPS:
        try:
            limit, used = (int(_group(name)) for name in numbers)
            cached = next(int(line.split()[1]) for line in _group(stat).splitlines() if line.split()[0] == cache)
        except (OSError, ValueError, StopIteration):  # no such group, or no limit
            continue
        free = min(free, max(0, limit - used + cached))
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return int(free)


def _group(name: str) -> str:
    return Path("/sys/fs/cgroup", name).read_text(encoding="ascii")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 1000 else f"{count:.0f} GiB"
