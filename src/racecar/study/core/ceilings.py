"""What the device at hand can do at most, measured in a second: products of matrices, copies, small operations."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from racecar.study.core.environment import environment
from racecar.study.core.errors import StudyError


@dataclass(frozen=True)
class Ceilings:
    """Of one device.

    Attributes:
        device: its name.
        half: FLOP/s of a product of large square matrices in bfloat16.
        single: the same in float32; on a GPU in TF32, as cuDNN computes float32 convolutions by default.
        bandwidth: bytes/s read and written by a copy of a large tensor.
        launch: seconds per operation on a tensor so small that telling the device is all that takes time.
        tf32: whether ``single`` is TF32.
    """

    device: str
    half: float
    single: float
    bandwidth: float
    launch: float
    tf32: bool = False

    def words(self) -> str:
        """One line for a page."""
        return (
            f"matrix products {self.half / 1e12:.3g} TFLOP/s in bfloat16 and {self.single / 1e12:.3g} in "
            f"{'TF32' if self.tf32 else 'float32'}, copies {self.bandwidth / 1e9:.3g} GB/s, "
            f"{1e6 * self.launch:.2g} µs per small operation"
        )


def device_name() -> str:
    """Of the accelerator, else of the processor."""
    about = environment()
    return about["processor"] if about["accelerator"] == "none" else about["accelerator"]


def ceilings(seconds: float = 0.3) -> Ceilings:
    """Measure the accelerator, else the processor with the threads that torch has.

    Args:
        seconds: per number, at least; four numbers.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    side = 8192 if on_gpu else 768
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        products = {}
        for dtype in (torch.bfloat16, torch.float32):
            a = torch.rand(side, side, device=device, dtype=dtype)
            products[dtype] = 2 * side**3 / _best(lambda a=a: a @ a, seconds)  # type: ignore[misc]
    finally:
        torch.set_float32_matmul_precision(precision)
    large = torch.zeros(2**28 if on_gpu else 2**24, device=device)
    other = torch.empty_like(large)
    bandwidth = 2 * large.nbytes / _best(lambda: other.copy_(large), seconds)
    small, count = torch.zeros(16, device=device), 200

    def many() -> None:
        for _ in range(count):
            small.add_(1.0)

    launch = _best(many, seconds) / count
    return Ceilings(device_name(), products[torch.bfloat16], products[torch.float32], bandwidth, launch, on_gpu)


def measured(seconds: float = 0.3) -> Ceilings:
    """As :func:`ceilings`, in a process of its own: nothing of it stays on the device.

    Raises:
        StudyError: the device cannot be used.
    """
    command = [sys.executable, "-m", "racecar.study.core.ceilings", str(seconds)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise StudyError(f"the device cannot be measured: {(found.stderr.strip().splitlines() or ['no word'])[-1]}")
    return Ceilings(**json.loads(found.stdout.splitlines()[-1]))


def _best(work: Callable[[], object], seconds: float) -> float:
    """Shortest of at least three calls, the first left out."""
    found: list[float] = []
    end = time.monotonic() + seconds
    with torch.no_grad():
        while len(found) < 4 or time.monotonic() < end:
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found.append(time.perf_counter() - began)
    return min(found[1:])


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(ceilings(float(sys.argv[1])))))
