"""What a step of racecar training costs beside a plain one: the networks of Tables 9 and 11 and the strong one.

    python benchmarks/classification.py --table results/classification-speed.md

All variants of a row take turns within one run, so their ratio holds on a noisy machine; times are the best of all
turns. FLOPs are counted by ``torch.utils.flop_counter`` over a whole step.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import DEVICE, Step, flops, turns
from torch import Tensor, nn

import racecar
from racecar.study.cifar.network import strong, table_11
from racecar.study.digits.experiment import network
from racecar.study.glorot import initialise_glorot
from racecar.study.runs import environment, write_text


def make_step(net: nn.Module, x: Tensor, variant: str, *, half: bool, last: bool, compiled: bool) -> Step:
    """One training step: forward, reverse, backward, Adam."""
    net = net.to(DEVICE, memory_format=torch.channels_last if last else torch.contiguous_format)
    x = x.to(DEVICE, memory_format=torch.channels_last if last else torch.contiguous_format)
    labels = torch.arange(len(x), device=DEVICE) % 10
    rr = racecar.Racecar(net, x, weight=1e-7, reduction="sum", input_range="paper") if variant == "RR" else None

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            output, penalty = rr(x) if rr is not None else (net(x), 0.0)
            if variant == "Ort":
                penalty = 1e-2 * racecar.srip(net)
            return F.cross_entropy(output, labels) + penalty

    forward = torch.compile(loss) if compiled else loss
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=True)

    def step() -> None:
        value = forward(x)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    return step


def steps_table(seconds: float, compile_too: bool) -> list[str]:
    lines = [
        "| network | setting | Std, ms | RR, ms | RR / Std | FLOPs, RR / Std | Ort / Std | Std, GFLOP/s "
        "| RR, GFLOP/s | epoch of Std, s | of RR, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
        ("Table 9 (digits), batch 64", network, (64, 1, 28, 28)),
        ("Table 11 (CIFAR) at width 16, batch 100", lambda: table_11(width=16), (100, 3, 32, 32)),
        ("strong (CIFAR) at width 32, batch 128", lambda: strong(width=32), (128, 3, 32, 32)),
    ]
    if DEVICE.type == "cuda":
        cases += [
            ("Table 11 (CIFAR), batch 200", table_11, (200, 3, 32, 32)),
            ("strong (CIFAR), batch 128", strong, (128, 3, 32, 32)),
        ]
    settings = [
        ("float32", {"half": False, "last": False, "compiled": False}),
        ("float32, channels last", {"half": False, "last": True, "compiled": False}),
        ("bfloat16, channels last", {"half": True, "last": True, "compiled": False}),
    ]
    if compile_too:
        settings.append(("bfloat16, channels last, compiled", {"half": True, "last": True, "compiled": True}))
    for name, make, shape in cases:
        for words, options in settings:
            if options["compiled"] and "Table 9" not in name and DEVICE.type == "cpu":
                continue  # a quarter of an hour of compilation
            nets = {v: make() for v in ("Std", "RR", "Ort")}
            for net in nets.values():
                initialise_glorot(net, 0)
            steps = {v: make_step(n, torch.rand(shape), v, **options) for v, n in nets.items()}  # type: ignore[arg-type]
            best = turns(steps, seconds)
            plain = {v: make_step(make(), torch.rand(shape), v, half=False, last=False, compiled=False) for v in steps}
            count = {v: flops(plain[v]) for v in ("Std", "RR")}
            std = best["Std"]
            batches = math.ceil((55_000 if shape[1] == 1 else 50_000) / shape[0])  # MNIST's, CIFAR's training images
            lines.append(
                f"| {name} | {words} | {1e3 * std:.1f} | {1e3 * best['RR']:.1f} | {best['RR'] / std:.2f} | "
                f"{count['RR'] / count['Std']:.2f} | {best['Ort'] / std:.2f} | {count['Std'] / std / 1e9:.0f} | "
                f"{count['RR'] / best['RR'] / 1e9:.0f} | {std * batches:.1f} | {best['RR'] * batches:.1f} |"
            )
            print(lines[-1], flush=True)
    return lines


def ensemble_table(seconds: float) -> list[str]:
    """Five seeds in one program against five steps one after the other."""
    members, batch = 5, 64
    lines = ["| five seeds of | one by one, ms | in one program, ms | one program / one by one |", "|---|---|---|---|"]
    for variant, weight in (("Std", 0.0), ("RR^3", 1e-5)):
        nets = [network().to(DEVICE) for _ in range(members)]
        x = torch.rand(members, batch, 1, 28, 28, device=DEVICE)
        labels = torch.randint(0, 10, (members, batch), device=DEVICE)
        together = racecar.Ensemble(
            nets, x[0], weights=[weight] * members, layers=3, reduction="sum", input_range="paper"
        )
        gradients = together.gradients(F.cross_entropy)
        optimiser = torch.optim.Adam(together.parameters(), 1e-4, fused=True)

        def in_one(gradients=gradients, x=x, labels=labels, optimiser=optimiser) -> None:
            gradients(x, labels)
            optimiser.step()

        singles = [
            make_step(network(), x[i].cpu(), "RR" if weight else "Std", half=False, last=True, compiled=False)
            for i in range(members)
        ]
        best = turns({"one by one": lambda s=singles: [f() for f in s], "together": in_one}, seconds)  # type: ignore[dict-item,misc]
        lines.append(
            f"| {variant}, Table 9, float32 | {1e3 * best['one by one']:.0f} | {1e3 * best['together']:.0f} | "
            f"{best['together'] / best['one by one']:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=10.0, help="per row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also under torch.compile (minutes of compilation)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = environment()
    given = [a for a in sys.argv[1:] if a != "--table" and not a.endswith(".md")]
    device = about["processor"] if DEVICE.type == "cpu" else about["accelerator"]
    lines = [
        "# Speed of a training step",
        "",
        f"`python benchmarks/classification.py {' '.join(given)}`",
        "",
        f"{device}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}. Variants of a row take turns; best times, and from them an epoch of 55 000 images of "
        "MNIST or 50 000 of CIFAR. The paper: 3.522 s against 5.675 s of MNIST (1.61), 63 s against 64 s of CIFAR.",
        "",
        *steps_table(options.seconds, options.compile),
        "",
        *ensemble_table(options.seconds),
        "",
    ]
    if options.table is not None:
        write_text(options.table, "\n".join(lines))


if __name__ == "__main__":
    main()
