"""Peak memory of a step of one of several processes: whole model, sharded at the root, sharded layer by layer.

    python benchmarks/sharded.py --table results/sharded.md

Each row is measured in processes of its own (gloo, CPU): the highest resident memory of the first one during three
steps with plain SGD, over what it has before the model is made. There are so few samples that the weights are what
counts.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text

WIDTH, LAYERS, SAMPLES = 1024, 24, 8
WAYS = {
    "std": "Std, whole",
    "std-root": "Std, sharded at the root",
    "std-layers": "Std, sharded layer by layer",
    "rr": "RR^24, whole",
    "rr-root": "RR^24, sharded at the root",
    "rr-layers": "RR^24, sharded layer by layer",
}


def network(device: str) -> nn.Sequential:
    """24 linear layers of 1024 units: 96 MiB of weights in float32."""
    with torch.device(device):
        return nn.Sequential(*[m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU())])


def peak(reset: bool = False) -> float:
    """Highest resident memory of this process in MiB; ``reset``: from now on."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def one(way: str) -> None:
    """A process's part; the first one prints its peak."""
    warnings.simplefilter("ignore")  # of meta tensors that are divided: random numbers are of this process alone
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    kind, _, where = way.partition("-")
    example = torch.randn(SAMPLES, WIDTH)
    tiny = racecar.Racecar(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4))  # what is imported late
    tiny(torch.zeros(2, 4))[1].backward()
    dist.barrier()
    before = peak(reset=True)
    model = network("meta")
    module: nn.Module = racecar.Racecar(model, example, weight=1e-3) if kind == "rr" else model
    if where == "layers":
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
    if where:
        fully_shard(module)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=WIDTH**-0.5)
    optimiser = torch.optim.SGD(module.parameters(), 1e-4)
    for _ in range(3):
        result = module(example)
        loss = result[0].square().mean() + result[1] if kind == "rr" else result.square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    found = peak() - before
    if dist.get_rank() == 0:
        print(f"{found:.1f}")
    dist.destroy_process_group()


def measured(way: str, processes: int) -> float:
    """Peak of the first of several processes, in MiB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        own = {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # glibc keeps what is freed unless it is told not to.
        own |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--one", way]
        children.append(subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True))
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{way} with {processes} processes failed")
    return float(said[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--one", choices=WAYS)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    weights, about = LAYERS * WIDTH * WIDTH * 4 / 2**20, environment()
    lines = [
        "# Memory of a model that is divided among processes",
        "",
        f"`python benchmarks/sharded.py`: {LAYERS} linear layers of {WIDTH} units, {weights:.0f} MiB of weights in "
        f"float32, {SAMPLES} samples, plain SGD, three steps; made on the meta device, so that it is never whole where "
        "it is sharded. Highest resident memory of the first process over what it had before, in MiB; gradients "
        f"included. gloo, {about['processor']}, torch {about['torch']}, revision {about['revision']}; one run a row.",
        "",
        "| | " + " | ".join(f"{n} processes" for n in options.processes) + " |",
        "|---" * (1 + len(options.processes)) + "|",
    ]
    for way, words in WAYS.items():
        cells = [f"{measured(way, n):.0f}" for n in options.processes]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if options.table:
        write_text(options.table, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
