"""What a racecar step costs: its time over the bound that its FLOPs set, and its memory, eager and compiled.

    python benchmarks/cost.py --compile --table results/cost.md

The networks of Tables 9 and 11, a strong one for CIFAR, ResNet-50 and VGG19. Variants of a row take turns within one
run, so their ratio holds on a noisy machine; times are the best of all turns. The bound is the ratio of the FLOPs of a
whole step, counted by ``torch.utils.flop_counter``. Memory is what a step needs beyond what is there before it: on a
CPU in a process of its own, on a GPU by ``torch.cuda.max_memory_allocated``. On a GPU, and with ``--size tiny``, which
shows that everything runs, there are rows without channels last, and a table of RR's cheaper ways.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peak import mebibytes_in_a_process, memory
from timing import DEVICE, Step, flops, keep_freed_memory, turns
from torch import Tensor, nn

import racecar
from racecar.study.cifar.network import strong, table_11
from racecar.study.core.ceilings import Ceilings, ceilings
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.digits.experiment import network
from racecar.study.report.markdown import markdown
from racecar.study.vgg.network import VGG19

CUDA = DEVICE.type == "cuda"
VARIANTS: dict[str, dict[str, Any] | None] = {"Std": None, "RR": {}, "RR, checkpoint": {"checkpoint": True}}
SAVINGS: list[dict[str, Any]] = [
    {"every": 4},
    {"every": 8},
    {"fraction": 0.25},
    {"fraction": 0.125},
    {"layerwise": True},
    {"subset": 1},
    {"checkpoint": True},
]
TURN = 8  # steps: a multiple of every k


class ResNet50(nn.Module):
    """ResNet-50 for 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetForImageClassification

        self.net = ResNetForImageClassification(ResNetConfig(num_labels=1000))  # its defaults: 3, 4, 6, 3 bottlenecks

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [N, 1000]."""
        return self.net(pixel_values=x).logits


@dataclass(frozen=True)
class Case:
    """A network and its input, smaller on a CPU.

    Attributes:
        make: the network.
        shape: of its input, on a GPU.
        small: the same on a CPU.
        tiny: the same with ``--size tiny``.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    small: tuple[int, ...]
    tiny: tuple[int, ...]

    def crowded(self, size: str) -> int:
        """A batch whose activations weigh more than the weights' gradients."""
        return self.input(size)[0] if CUDA or size == "tiny" else max(32, self.small[0])

    def input(self, size: str) -> tuple[int, ...]:
        """Of this device."""
        return self.tiny if size == "tiny" else self.shape if CUDA else self.small


CASES = {
    "Table 9 (digits)": Case(network, (64, 1, 28, 28), (64, 1, 28, 28), (4, 1, 28, 28)),
    f"Table 11 (CIFAR), width {64 if CUDA else 16}": Case(
        lambda: table_11(width=64 if CUDA else 16), (200, 3, 32, 32), (100, 3, 32, 32), (4, 3, 32, 32)
    ),
    f"strong (CIFAR), width {64 if CUDA else 32}": Case(
        lambda: strong(width=64 if CUDA else 32), (128, 3, 32, 32), (128, 3, 32, 32), (4, 3, 32, 32)
    ),
    "ResNet-50": Case(ResNet50, (64, 3, 224, 224), (8, 3, 128, 128), (2, 3, 64, 64)),
    "VGG19": Case(VGG19, (24, 3, 224, 224), (4, 3, 128, 128), (2, 3, 32, 32)),
}


@dataclass(frozen=True)
class Setting:
    """How a step is computed.

    Attributes:
        half: bfloat16 by autocast.
        compiled: by torch.compile.
        last: channels last.
    """

    half: bool = False
    compiled: bool = False
    last: bool = True

    def words(self) -> str:
        """Of its row."""
        more = (", compiled" if self.compiled else "") + ("" if self.last else ", not channels last")
        return ("bfloat16" if self.half else "float32") + more


def make_step(case: Case, options: dict[str, Any] | None, setting: Setting, shape: tuple[int, ...]) -> Step:
    """One training step: forward, reverse, backward, Adam; ``options`` of Racecar, None for Std."""
    net = case.make()
    initialise_glorot(net, 0)
    layout = torch.channels_last if setting.last else torch.contiguous_format
    net = net.to(DEVICE, memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(*shape).to(DEVICE, memory_format=layout)
    labels = torch.arange(len(x), device=DEVICE) % 10
    rr = None
    if options is not None:
        rr = racecar.Racecar(net, x, weight=1e-7, reduction="sum", input_range="paper", **options)

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=setting.half):
            output, penalty = rr(x) if rr is not None else (net(x), 0.0)
            return F.cross_entropy(output, labels) + penalty

    forward = torch.compile(loss) if setting.compiled else loss
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=True)

    def step() -> None:
        forward(x).backward()
        optimiser.step()
        optimiser.zero_grad()  # at the end, so that a step's memory includes its gradients

    return step


def memory_in_a_process(name: str, variant: str, options: argparse.Namespace) -> str:
    """MiB, or a dash where the system does not tell."""
    words = [__file__, "--memory-of", name, variant, "--threads", str(options.threads), "--size", options.size]
    found = mebibytes_in_a_process(words)
    return "—" if found is None else f"{found:.0f}"


# --- tables -----------------------------------------------------------------------------------------------------------


def time_rows(name: str, case: Case, options: argparse.Namespace, most: Ceilings) -> list[list[str]]:
    """A row per setting."""
    shape = case.input(options.size)
    two = (2, *shape[1:])
    settings = [Setting(), Setting(half=True)]
    if options.compile and (CUDA or name in options.compiled):
        settings.append(Setting(half=True, compiled=True))
    if thorough(options):
        settings.append(Setting(half=True, last=False))
    rows = []
    for setting in settings:
        variants = [v for v in VARIANTS if not (setting.compiled and v.endswith("checkpoint"))]
        steps = {v: make_step(case, VARIANTS[v], setting, shape) for v in variants}
        best = turns(steps, options.seconds)
        # A reverse pass may be another one in half precision, so that its arithmetic is.
        plain = Setting(half=setting.half)
        count = {v: flops(make_step(case, VARIANTS[v], plain, two)) * shape[0] // 2 for v in ("Std", "RR")}
        bound = count["RR"] / count["Std"]
        std, rr, again = (best.get(v) for v in VARIANTS)
        assert std is not None
        assert rr is not None
        rates = [count["Std"] / std, count["RR"] / rr]
        rows.append(
            [
                f"{name}, {' × '.join(map(str, shape))}",
                setting.words(),
                f"{1e3 * std:.1f}",
                f"{1e3 * rr:.1f}",
                f"{rr / std:.2f}",
                f"{bound:.2f}",
                f"**{rr / std / bound:.2f}**",
                f"{again / std:.2f}" if again else "not run",
                *(f"{rate / 1e9:.0f}" for rate in rates),
                *(f"{rate / (most.half if setting.half else most.single):.0%}" for rate in rates),
                *(f"{memory(steps[v]) / 2**20:.0f}" if CUDA else "—" for v in ("Std", "RR")),
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
        torch.compiler.reset()  # torch compiles one function eight times, then no more
    return rows


def thorough(options: argparse.Namespace) -> bool:
    """Whether the rows are measured that would take a CPU too long."""
    return CUDA or options.size == "tiny"


def saving_rows(name: str, case: Case, options: argparse.Namespace) -> list[list[str]]:
    """RR's cheaper ways in bfloat16, eager: the mean step of a turn over Std's, and memory."""
    shape = case.input(options.size)
    ways = {"Std": None, "RR": {}} | {", ".join(f"{k}={v}" for k, v in saving.items()): saving for saving in SAVINGS}
    steps = {words: make_step(case, way, Setting(half=True), shape) for words, way in ways.items()}

    def turn(step: Step) -> Step:
        def run() -> None:
            for _ in range(TURN):
                step()

        return run

    best = turns({words: turn(step) for words, step in steps.items()}, options.seconds)
    rows = [
        [
            f"{name}, {' × '.join(map(str, shape))}",
            words,
            f"{1e3 * best[words] / TURN:.2f}",
            f"{best[words] / best['Std']:.2f}",
            f"{max(memory(step) for _ in range(TURN)) / 2**20:.0f}" if CUDA else "—",
        ]
        for words, step in steps.items()
    ]
    print("\n".join(" | ".join(row) for row in rows), flush=True)
    return rows


def memory_row(name: str, case: Case, options: argparse.Namespace) -> list[str]:
    """MiB of a step in bfloat16."""
    found = [memory_in_a_process(name, v, options) for v in VARIANTS]
    ratios = [f"{int(m) / int(found[0]):.2f}" if m.isdigit() and int(found[0]) else "—" for m in found[1:]]
    shape = (case.crowded(options.size), *case.input(options.size)[1:])
    row = [f"{name}, {' × '.join(map(str, shape))}", *found, *ratios]
    print(" | ".join(row), flush=True)
    return row


LAYERS = ((64, 1, 64, 28, 3), (100, 3, 16, 32, 3), (128, 64, 64, 16, 3), (8, 256, 64, 32, 1), (8, 512, 512, 4, 3))


def adjoint_rows(seconds: float, size: str) -> list[list[str]]:
    """A transposed convolution of stride 1 beside a plain one with the kernel flipped: the same sums."""
    rows = []
    for batch, wide, narrow, side, kernel in LAYERS:
        n = 1 if size == "tiny" else batch
        weight = torch.randn(narrow, wide, kernel, kernel, device=DEVICE, requires_grad=True)
        estimate = torch.randn(n, narrow, side, side, device=DEVICE, dtype=torch.bfloat16)
        estimate = estimate.to(memory_format=torch.channels_last).requires_grad_()
        pad = kernel // 2

        def transposed(e: Tensor = estimate, w: Tensor = weight, p: int = pad) -> Tensor:
            return F.conv_transpose2d(e, w.to(e.dtype), None, 1, p)

        def flipped(e: Tensor = estimate, w: Tensor = weight, p: int = pad) -> Tensor:
            return F.conv2d(e, w.to(e.dtype).transpose(0, 1).flip(2, 3), None, 1, p)

        gradient = transposed().detach().clone()

        def with_backward(f: Callable[[], Tensor], g: Tensor = gradient) -> Step:
            def step() -> None:
                f().backward(g)

            return step

        best = turns({f.__name__: with_backward(f) for f in (transposed, flipped)}, seconds)
        rows.append(
            [
                f"{narrow} → {wide} channels, kernel {kernel}, {n} × {side} × {side}",
                *(f"{1e3 * best[f]:.2f}" for f in ("transposed", "flipped")),
                f"{best['flipped'] / best['transposed']:.2f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=10.0, help="per row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=["own", "tiny"], default="own", help="tiny: shows that everything runs")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--compile", action="store_true", help="also under torch.compile (minutes of compilation)")
    parser.add_argument("--compiled", nargs="+", default=list(CASES), help="on a CPU, these cases only")
    parser.add_argument("--memory-of", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        name, variant = options.memory_of
        case = CASES[name]
        shape = (case.crowded(options.size), *case.input(options.size)[1:])
        print(memory(make_step(case, VARIANTS[variant], Setting(half=True), shape)))
        return
    keep_freed_memory()
    about = environment()
    given = [a for a in sys.argv[1:] if a != "--table" and not a.endswith(".md")]
    device = about["accelerator"] if CUDA else about["processor"]
    cases = {name: CASES[name] for name in options.cases}
    most = ceilings()
    times = [row for name, case in cases.items() for row in time_rows(name, case, options, most)]
    savings = [row for name, case in cases.items() if thorough(options) for row in saving_rows(name, case, options)]
    memories = [memory_row(name, case, options) for name, case in cases.items()]
    lines = [
        "# What a racecar step costs",
        "",
        f"`python benchmarks/cost.py {shlex.join(given)}`",
        "",
        f"{device}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}. Channels last, Adam; bfloat16 by autocast. Variants of a row take turns; best times. "
        "The bound is the ratio of the FLOPs of a step: of it, 1.00 is as fast per FLOP as Std, below it faster. "
        f"The ceilings, measured before: {most.words()}."
        + (" Tiny sizes: this shows that everything runs, and measures nothing." if options.size == "tiny" else ""),
        "",
        *markdown(
            [
                "network, input",
                "setting",
                "Std, ms",
                "RR, ms",
                "RR / Std",
                "the bound: FLOPs, RR / Std",
                "RR / Std over the bound",
                "RR with checkpoint / Std",
                "Std, GFLOP/s",
                "RR, GFLOP/s",
                "Std, of the ceiling",
                "RR, of the ceiling",
                "Std, MiB",
                "RR, MiB",
            ],
            times,
        ),
        "",
        *(
            [
                "## Cheaper ways",
                "",
                f"bfloat16, eager, channels last; the mean step of turns of {TURN}, and the largest of so many steps' "
                "memory. Compiled: not run.",
                "",
                *markdown(["network, input", "way", "step, ms", "step / Std", "MiB"], savings),
                "",
            ]
            if savings
            else []
        ),
        "## Memory of a step",
        "",
        "MiB beyond what is there before it (weights, moments, input): activations, estimates, gradients; bfloat16, "
        "eager.",
        "",
        *markdown(["network, input", *VARIANTS, "RR / Std", "RR, checkpoint / Std"], memories),
        "",
        "## The transposed convolution",
        "",
        "A layer of stride 1 backwards, and the gradients through it: by a transposed convolution, which racecar uses, "
        "and by a plain convolution with the kernel flipped, ms in bfloat16.",
        "",
        *markdown(
            ["layer", "transposed", "flipped", "flipped / transposed"], adjoint_rows(options.seconds / 4, options.size)
        ),
        "",
    ]
    if options.table is not None:
        write_text(options.table, "\n".join(lines))


if __name__ == "__main__":
    main()
