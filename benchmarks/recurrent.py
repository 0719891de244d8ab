"""What racecar training does to a recurrent classifier: the rows of MNIST's digits as a sequence of 28 steps.

    python benchmarks/recurrent.py --data .data/mnist --table results/recurrent.md

Phase I trains Std and two palindromes on task A, MNIST; phase II goes on plainly with all weights on two tasks B: the
digits with motion blur, and the digits read from the last row to the first. The palindromes differ in the start I_r:
"RR sequence" gives the reverse pass the output of every step, "RR last" that of the last step alone, so that all
earlier rows have to come back through time. λ holds ‖∇ penalty‖ = ratio · ‖∇ loss‖ at the first batch of every epoch
(racecar.balance), with the library's default ratio. Seeds draw the images, the weights and the batches, the same for
all variants.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.digits.nmnist import blurred
from racecar.study.images.decoded import Images
from racecar.study.images.load import train_and_validation
from racecar.study.report.markdown import markdown
from racecar.study.report.statistics import bounds, paired_difference, spread, summarise

STARTS = {"RR sequence": "rnn", "RR last": "last"}
VARIANTS = ("Std", *STARTS)
TASKS = ("blurred", "reversed")


class Last(nn.Module):
    """The output of the last step, as a module, so that the reverse pass can start there."""

    def forward(self, y: Tensor) -> Tensor:
        return y[:, -1]


class Classifier(nn.Module):
    """(N, 28, 28) → (N, 10): rows, two recurrent layers, the last step, a linear head."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int) -> None:
        super().__init__()
        self.rnn = kind(28, hidden, 2, batch_first=True)
        self.last = Last()
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.last(self.rnn(rows)[0]))


def batches(x: Tensor, labels: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for part in order.split(size):
        yield x[part], labels[part]


def train(
    net: nn.Module, data: tuple[Tensor, Tensor], epochs: int, seed: int, start: str | None, options: argparse.Namespace
) -> float:
    """Adam on the cross entropy, with the penalty if there is a start; seconds of the fastest step."""
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), options.rate)
    rr = None if start is None else racecar.Racecar(net, data[0][:2], layers=["rnn"], start=start)
    best = math.inf
    for epoch in range(epochs):
        for number, (x, labels) in enumerate(batches(*data, options.batch, 1000 * seed + epoch)):
            if rr is not None and number == 0:
                output, penalty = rr(x)
                racecar.balance(rr, F.cross_entropy(output, labels), penalty, ratio=options.ratio)
            begun = time.perf_counter()
            output, penalty = (net(x), 0.0) if rr is None else rr(x)
            loss = F.cross_entropy(output, labels) + penalty
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            best = min(best, time.perf_counter() - begun)
    return best


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, labels: Tensor) -> float:
    net.eval()
    return torch.cat([net(part).argmax(1) for part in x.split(1000)]).eq(labels).double().mean().item()


@torch.no_grad()
def regeneration(net: nn.Module, x: Tensor, start: str) -> tuple[float, float]:
    """Mean squared error of the input over its variance (1: as good as the mean), of all rows and of the last one."""
    rr = racecar.Racecar(net, x[:2], layers=["rnn.0"], start=start)
    original, regenerated = rr.reconstruct(x)["rnn.0"]
    error = (original - regenerated).square()
    return (error.mean() / x.var()).item(), (error[:, :14].mean() / x[:, :14].var()).item()


def rows_of(images: Images) -> Tensor:
    return (images.pixels[:, 0].float() / 255 - 0.1307) / 0.3081  # MNIST's mean and standard deviation


def run(kind: type[nn.RNNBase], seed: int, source: Images, test: Images, options: argparse.Namespace) -> dict[str, Any]:
    """All variants of one seed."""
    first, rest = source.stratified(options.images, seed)
    second, _ = rest.stratified(options.transfer, seed)
    blurry = blurred(test)
    tests = {
        "A": (rows_of(test), test.labels),
        "blurred": (rows_of(blurry), test.labels),
        "reversed": (rows_of(test).flip(1), test.labels),
    }
    trains = {"blurred": rows_of(blurred(second)), "reversed": rows_of(second).flip(1)}
    found: dict[str, Any] = {}
    for variant in (*VARIANTS, "from scratch"):
        torch.manual_seed(seed)
        net = Classifier(kind, options.hidden)
        if variant in VARIANTS:
            data = rows_of(first), first.labels
            seconds = train(net, data, options.epochs, seed, STARTS.get(variant), options)
            found[variant, "A"] = accuracy(net, *tests["A"])
            found[variant, "ms"] = 1e3 * seconds
            for start in STARTS.values():
                found[variant, start], found[variant, f"{start}, upper half"] = regeneration(
                    net, tests["A"][0][:1000], start
                )
        state = {name: value.clone() for name, value in net.state_dict().items()}
        for task in TASKS:
            net.load_state_dict(state)
            train(net, (trains[task], second.labels), options.transfer_epochs, seed, None, options)
            found[variant, task] = accuracy(net, *tests[task])
        print(kind.__name__, seed, {k[1]: round(v, 4) for k, v in found.items() if k[0] == variant}, flush=True)
    return found


def tables(name: str, runs: list[dict[str, Any]]) -> list[str]:
    def values(variant: str, measure: str) -> list[float]:
        return [r[variant, measure] for r in runs if (variant, measure) in r]

    columns = {
        "test accuracy, A": ("A", 4),
        "transfer: blurred": ("blurred", 4),
        "transfer: reversed": ("reversed", 4),
        "error of I', start: sequence": ("rnn", 3),
        "start: last step": ("last", 3),
        "start: last step, upper half": ("last, upper half", 3),
        "ms, fastest step": ("ms", 0),
    }
    rows = [
        [variant, *(spread(summarise(values(variant, key)), digits) for key, digits in columns.values())]
        for variant in (*VARIANTS, "from scratch")
    ]
    lines = [f"## {name}", "", *markdown(["", *columns], rows), ""]
    for measure in ("A", *TASKS):
        for variant in STARTS:
            for other in ("Std", "from scratch"):
                if values(other, measure):
                    found = paired_difference(values(variant, measure), values(other, measure))
                    where = "phase I, A" if measure == "A" else f"transfer, {measure}"
                    lines.append(f"- {where}: {variant} − {other} = {found.mean:+.4f}, {bounds(found, 4, '+')}")
    for variant, start in STARTS.items():
        found = paired_difference(values(variant, start), values("Std", start))
        lines.append(f"- error of I', {variant} − Std from the same start = {found.mean:+.3f}, {bounds(found, 3, '+')}")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ylecun/mnist", help="a hub name, or a folder of parquet files")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--kinds", nargs="+", default=["LSTM", "GRU", "RNN"], choices=["LSTM", "GRU", "RNN"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=3000, help="of task A")
    parser.add_argument("--transfer", type=int, default=1000, help="images of task B, others than those of A")
    parser.add_argument("--epochs", type=int, default=10, help="of phase I")
    parser.add_argument("--transfer-epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=3e-3, help="of Adam")
    parser.add_argument("--ratio", type=float, default=0.3, help="of the gradients' norms, for racecar.balance")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    torch.set_num_threads(options.threads)
    source, test = train_and_validation(options.data)
    about = environment()
    given = [a for a in sys.argv[1:] if a != "--table" and not a.endswith(".md")]
    lines = [
        "# Recurrent networks: rows of digits as sequences",
        "",
        f"`python benchmarks/recurrent.py {' '.join(given)}`",
        "",
        f"{about['processor']}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, "
        f"revision {about['revision']}. Two layers of {options.hidden} units, {options.images} images of A, "
        f"{options.transfer} of B, {options.epochs} and {options.transfer_epochs} epochs, batches of {options.batch}, "
        f"Adam {options.rate:g}, ratio {options.ratio:g}; n = {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), mean ± "
        "standard deviation, differences paired by seed; "
        f"{len(test)} test images. The error of the regenerated input I' is relative to the variance of I: 1 is as "
        "good as the mean, and 'upper half' are the first 14 rows, which the network reads first.",
        "",
    ]
    for kind in (getattr(nn, name) for name in options.kinds):
        lines += tables(kind.__name__, [run(kind, seed, source, test, options) for seed in seeds])
        if options.table is not None:
            write_text(options.table, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
