"""How much faster many networks train in one program than one at a time: ``python benchmarks/ensemble.py``.

The network of Table 7, phase I, batch 512, and the convolutions of Table 9, for which it does not pay. All ways are
timed in turn within one run; what counts is the ratio, as machines are noisy. One thread, as the studies' processes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from cost import CASES, make_step
from timing import DEVICE, keep_freed_memory, turns

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.digits.experiment import network
from racecar.study.mutual_information.network import initialised
from racecar.study.mutual_information.training import criterion
from racecar.study.report.markdown import markdown

OPTIONS = {"layers": "all", "reduction": "sum", "input_range": "paper"}


def one_at_a_time(weight: float) -> Callable[[], None]:
    net = initialised("glorot", 0)
    rr = racecar.Racecar(net, torch.zeros(2, 12), weight=weight, **OPTIONS)
    adam = torch.optim.Adam(net.parameters(), lr=4e-4, fused=True)
    x, y = torch.randint(0, 2, (512, 12)).float(), _targets(1)[0]
    loss_of = criterion("twice")

    def step() -> None:
        adam.zero_grad()
        if weight:
            output, penalty = rr(x)
            loss = loss_of(output, y) + penalty
        else:
            loss = loss_of(net(x), y)
        loss.backward()
        adam.step()

    return step


def together(members: int, weight: float) -> Callable[[], None]:
    nets = [initialised("glorot", i) for i in range(members)]
    ensemble = racecar.Ensemble(nets, torch.zeros(2, 12), weights=[weight] * members, **OPTIONS)
    program = ensemble.gradients(criterion("twice"))
    adam = torch.optim.Adam(ensemble.parameters(), lr=4e-4, fused=True)
    x = torch.randint(0, 2, (members, 12, 512)).float().transpose(1, 2)
    y = _targets(members)

    def step() -> None:
        program(x, y)
        adam.step()

    return step


def _targets(members: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.randint(0, 2, (members, 512)), 2).float().transpose(1, 2).contiguous()


def convolutions(seconds: float, members: int = 5, batch: int = 64) -> list[str]:
    """Five seeds of Table 9's network in one program against five steps one after the other."""
    rows = []
    for variant, weight in (("Std", 0.0), ("RR", 1e-5)):
        nets = [network().to(DEVICE) for _ in range(members)]
        x = torch.rand(members, batch, 1, 28, 28, device=DEVICE)
        labels = torch.randint(0, 10, (members, batch), device=DEVICE)
        ensemble = racecar.Ensemble(
            nets, x[0], weights=[weight] * members, layers=3, reduction="sum", input_range="paper"
        )
        program = ensemble.gradients(F.cross_entropy)
        adam = torch.optim.Adam(ensemble.parameters(), 1e-4, fused=True)

        def in_one(program=program, x=x, labels=labels, adam=adam) -> None:
            program(x, labels)
            adam.step()

        alone = [make_step(CASES["Table 9 (digits)"], variant, False, False) for _ in range(members)]

        def one_by_one(steps=alone) -> None:
            for step in steps:
                step()

        best = turns({"one by one": one_by_one, "in one": in_one}, seconds)
        rows.append([variant, *(f"{1e3 * best[w]:.0f}" for w in best), f"{best['in one'] / best['one by one']:.2f}"])
    return markdown(["five seeds of", "one by one, ms", "in one program, ms", "one program / one by one"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--table", type=Path, default=None)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ways = {
        "RR^6, one network": (one_at_a_time(1e-2), 1),
        "RR^6, 5 networks together": (together(5, 1e-2), 5),
        "RR^6, 20 networks together": (together(20, 1e-2), 20),
        "Std, one network": (one_at_a_time(0.0), 1),
        "Std, 5 networks together": (together(5, 0.0), 5),
        "Std, 20 networks together": (together(20, 0.0), 20),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step, _ in ways.values():
        step()
    for _ in range(options.rounds):
        for name, (step, _) in ways.items():
            started = time.perf_counter()
            for _ in range(options.steps):
                step()
            times[name].append((time.perf_counter() - started) / options.steps * 1e3)
    lines = [
        "| program | ms per step, median (min – max) | steps cost, × one network | speed-up over one at a time |",
        "|---|---|---|---|",
    ]
    for name, (_, members) in ways.items():
        alone = times[f"{name.split(',')[0]}, one network"]
        ratio = statistics.median(a / b for a, b in zip(times[name], alone, strict=True))
        middle = statistics.median(times[name])
        spread = f"{middle:.2f} ({min(times[name]):.2f} – {max(times[name]):.2f})"
        lines.append(f"| {name} | {spread} | {ratio:.2f} | {members / ratio:.1f} |")
    about = environment()
    text = (
        "# Many networks in one program\n\n`python benchmarks/ensemble.py`\n\nNetwork of Table 7, batch 512, Adam; one "
        f"thread; {options.rounds} rounds of {options.steps} steps, ratios within a round. {about['processor']}, torch "
        f"{about['torch']}, revision {about['revision']}.\n\n"
        + "\n".join(lines)
        + "\n\n## Convolutions\n\nNetwork of Table 9, batch 64, "
        "Adam, float32, channels last one by one.\n\n" + "\n".join(convolutions(10.0)) + "\n"
    )
    print(text)
    if options.table is not None:
        write_text(options.table, text)


if __name__ == "__main__":
    main()
