"""One process on one card, through NCCL: gradients by DDP, fully_shard and SyncBatchNorm beside those of a plain step.

    python benchmarks/one_card.py --table results/one-card.md

Without a GPU by gloo. With one process every average is over one, so that all gradients must be the plain ones: this
shows that the collectives run on the device and that nothing is lost on the way; several processes are compared in
tests/distributed. Where a difference is larger than the tolerance, the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from timing import DEVICE, turns
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.report.markdown import markdown

CUDA = DEVICE.type == "cuda"
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}  # ‖difference‖ / ‖gradient‖; bfloat16 as in docs/distributed.md


def net(norm: bool) -> nn.Sequential:
    """Table 9's shape, small; with batch norm where asked for."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o in ((1, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 10)).to(DEVICE)


def data() -> tuple[Tensor, Tensor]:
    """[16, 1, 8, 8] and labels."""
    draw = torch.Generator().manual_seed(1)
    return torch.rand(16, 1, 8, 8, generator=draw).to(DEVICE), torch.arange(16, device=DEVICE) % 10


def ready(norm: bool) -> racecar.Racecar:
    """Mirrored, with a penalty whose gradient is as large as the cross entropy's."""
    return racecar.Racecar(net(norm), data()[0][:2], weight=2.0)


def parallel(rr: racecar.Racecar) -> nn.Module:
    """By DDP."""
    return DistributedDataParallel(rr, device_ids=[DEVICE.index or 0] if CUDA else None)


def synchronised(rr: racecar.Racecar) -> racecar.Racecar:
    """With SyncBatchNorm."""
    nn.SyncBatchNorm.convert_sync_batchnorm(rr.model)
    return rr


def synchronised_parallel(rr: racecar.Racecar) -> nn.Module:
    """Both, in the order that the device allows: DDP refuses SyncBatchNorm on a CPU, so the layers follow there."""
    if CUDA:
        return parallel(synchronised(rr))
    wrapped = parallel(rr)
    synchronised(rr)
    return wrapped


def sharded(rr: racecar.Racecar) -> nn.Module:
    """By FSDP2, at the root."""
    fully_shard(rr)
    return rr


def sharded_by_layer(rr: racecar.Racecar) -> nn.Module:
    """By FSDP2, every layer with weights for itself."""
    for layer in rr.model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    return sharded(rr)


WAYS: dict[str, tuple[bool, Callable[[racecar.Racecar], nn.Module]]] = {
    "DDP": (False, parallel),
    "fully_shard": (False, sharded),
    "fully_shard, layer by layer": (False, sharded_by_layer),
    "DDP, batch norm": (True, parallel),
    "DDP, SyncBatchNorm": (True, synchronised_parallel),
    "fully_shard, SyncBatchNorm": (True, lambda rr: sharded(synchronised(rr))),
}


def step(called: nn.Module, half: bool) -> None:
    """Forward, reverse, backward."""
    images, labels = data()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
        output, penalty = called(images)
        loss = cross_entropy(output.float(), labels) + penalty
    loss.backward()


def gradients(rr: racecar.Racecar) -> Tensor:
    """Of the whole model, one after the other."""

    def whole() -> Iterator[Tensor]:
        for name, p in rr.model.named_parameters():
            assert p.grad is not None, name
            yield (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).double().flatten()

    return torch.cat(list(whole()))


def rows(seconds: float) -> tuple[list[list[str]], bool]:
    """A row per way and precision; whether all are within the tolerance."""
    found, right = [], True
    derived = {norm: ready(norm) for norm in (False, True)}
    for words, (norm, wrap) in WAYS.items():
        for precision, tolerance in TOLERANCE.items():
            half = precision == "bfloat16"
            plain, other = copy.deepcopy(derived[norm]), copy.deepcopy(derived[norm])
            called = wrap(other)
            step(plain, half)
            step(called, half)
            expected = gradients(plain)
            error = float((gradients(other) - expected).norm() / expected.norm())
            right &= error <= tolerance
            best = turns(
                {"plain": lambda p=plain, h=half: step(p, h), words: lambda c=called, h=half: step(c, h)}, seconds
            )
            found.append(
                [
                    words,
                    precision,
                    f"{error:.1e}",
                    f"{tolerance:g}",
                    "yes" if error <= tolerance else "**no**",
                    f"{1e3 * best['plain']:.2f}",
                    f"{1e3 * best[words]:.2f}",
                ]
            )
            print(" | ".join(found[-1]), flush=True)
    return found, right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=1.0, help="per row")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    backend = "nccl" if CUDA else "gloo"
    torch.backends.cudnn.allow_tf32 = False  # its rounding is larger than what is asked for here
    dist.init_process_group(backend, device_id=torch.device("cuda", 0) if CUDA else None)
    try:
        found, right = rows(options.seconds)
    finally:
        dist.destroy_process_group()
    about = environment()
    device = about["accelerator"] if CUDA else about["processor"]
    lines = [
        "# One process through the collectives",
        "",
        f"`python benchmarks/one_card.py --seconds {options.seconds:g}`",
        "",
        f"{device}, {backend}, world size 1, torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}. ‖difference‖ / ‖gradient‖ beside a plain step of the same network and batch; a step is "
        "forward, reverse and backward of a network so small that its time is that of the wrappers; best times.",
        "",
        *markdown(["way", "precision", "difference", "tolerance", "within it", "plain, ms", "so, ms"], found),
        "",
    ]
    if options.table is not None:
        write_text(options.table, "\n".join(lines))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
