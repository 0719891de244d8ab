"""What a derivation costs: seconds and memory, stage by stage, of deep and of large models, and of sentences.

    python benchmarks/derive.py --before ../before/src --table results/derivation.md

Every model is built with random weights (nothing is downloaded) and derived in a process of its own, on one thread, by
the code in ``src`` and, in turns, by that of another checkout. Seconds are of processor time, which other processes
on the machine disturb less. Memory is the peak above what the process held when the model was there, with torch's and
Python's own modules loaded; a forward and a backward pass of the plain model, whose gradients are freed one by one as
they come, is measured in the same way: what a derivation cannot do without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

SECONDS = 1200  # for one model
STAGES = ("torch.export", "clean-up", "mirror", "programs", "proof", "rest")
Inputs = tuple[Tensor, ...]


# --- models -----------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """As many layers, each added to its input."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.1 * torch.relu(layer(x))
        return x


class Sentence(nn.Module):
    """A small transformer whose head sees the first token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens))[:, 0]))


def plain(depth: int) -> nn.Module:
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(32, 32), nn.Tanh())])


def torchvision(name: str) -> tuple[nn.Module, Iterator[Inputs]]:
    import torchvision

    return torchvision.models.get_model(name, weights=None), iter([(torch.randn(2, 3, 224, 224),)])


def timm(name: str) -> tuple[nn.Module, Iterator[Inputs]]:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, iter([(torch.randn(2, *model.default_cfg["input_size"]),)])


def bert() -> tuple[nn.Module, Iterator[Inputs]]:
    import transformers

    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    return model, ((torch.randint(3, 1000, (2, n)),) for n in (16, 24, 32, 48, 64, 96, 128))


MODELS: dict[str, Callable[[], tuple[nn.Module, Iterator[Inputs]]]] = {
    "400 layers": lambda: (plain(400), iter([(torch.randn(4, 32),)])),
    "400 layers, residual": lambda: (Residual(400), iter([(torch.randn(4, 32),)])),
    **{
        name: lambda name=name: torchvision(name)  # type: ignore[misc]
        for name in ("resnet152", "densenet201", "efficientnet_b7", "convnext_large", "maxvit_t", "vit_l_16")
    },
    "swin_large_patch4_window7_224": lambda: timm("swin_large_patch4_window7_224"),
    "a small transformer": lambda: (Sentence(), ((torch.randint(100, (4, n)),) for n in range(4, 41))),
    "BERT base": bert,
}


# --- one model, in a process of its own -------------------------------------------------------------------------------


class Stages:
    """Seconds of processor time of each stage, without those of the stages inside it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._inside: list[float] = []

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Let the time that a function takes count for a stage."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - began
                self.seconds[stage] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        setattr(owner, name, watched)


def _status(key: str) -> float:
    """MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


class Peak:
    """MiB of memory at most while it lasts, above those at its start."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        self.peak = _status("VmHWM") - self._before


def plain_step(model: nn.Module, x: Inputs) -> tuple[float, float]:
    """(seconds, MiB) of a forward and a backward pass whose gradients are freed as they come."""
    handles = [p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) for p in model.parameters()]
    with Peak() as peak:
        began = time.process_time()
        output = model(*x)
        leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.stack([leaf.float().sum() for leaf in leaves]).sum().backward()
        took = time.process_time() - began
        del output, leaves
    for handle in handles:
        handle.remove()
    return took, peak.peak


def examine(name: str) -> dict[str, Any]:
    """One model's numbers."""
    import racecar
    from racecar import program
    from racecar.reverse import palindrome

    racecar.Racecar(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3))  # imports what it needs
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.train()
    first = next(inputs)
    row: dict[str, Any] = {"weights": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20}
    row["step"], row["step_memory"] = plain_step(model, first)
    stages = Stages()
    stages.watch(torch.export, "export", "torch.export")
    stages.watch(program, "export_forward", "clean-up")
    stages.watch(program, "build", "mirror")
    stages.watch(palindrome, "_program", "programs")
    stages.watch(program, "rehearse", "proof")
    stages.watch(program, "_prove", "proof")
    stages.watch(racecar.Racecar, "_program", "rest")
    with Peak() as peak:
        rr = racecar.Racecar(model, first)
    row |= {"stages": stages.seconds.copy(), "memory": peak.peak, "layers": len(rr.layers), "lengths": []}
    for x in inputs:
        before = sum(stages.seconds.values())
        rr._program(x, {}, training=True)
        row["lengths"].append(sum(stages.seconds.values()) - before)
    return row


# --- all of them, in turns --------------------------------------------------------------------------------------------


def measured(name: str, source: Path) -> dict[str, Any]:
    """By the code of one checkout."""
    # Blocks above a MiB are handed back when they are freed, so that the peak is what was held at one time.
    kept = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20), "PYTHONPATH": str(source.resolve())}
    command = [sys.executable, __file__, "--one", name]
    try:
        ran = subprocess.run(
            command, env=os.environ | kept, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"why": f"not finished in {SECONDS} s"}
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line) | {"load": os.getloadavg()[0]}
    return {"why": (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1][:200]}


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The quickest of several runs."""
    return min(rows, key=lambda row: total(row) if "stages" in row else float("inf"))


def total(row: dict[str, Any]) -> float:
    return sum(row["stages"].values())


def without_proof(row: dict[str, Any]) -> float:
    return total(row) - row["stages"]["proof"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
    parser.add_argument("--before", type=Path, default=None, help="the src of another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="of which the quickest counts")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        print(json.dumps(examine(options.one)), flush=True)
        return
    from racecar.study.core.environment import environment
    from racecar.study.core.files import write_text

    here = Path(__file__).parent.parent / "src"
    sources = {"before": options.before, "after": here} if options.before is not None else {"after": here}
    about = environment()
    if options.before is not None:
        about["before"] = subprocess.run(
            ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in options.models:
        rows: dict[str, list[dict[str, Any]]] = {label: [] for label in sources}
        for _ in range(options.rounds):
            for label, source in sources.items():
                rows[label].append(measured(name, source))
        found[name] = {label: best(several) for label, several in rows.items()}
        print(name, json.dumps(found[name]), flush=True)
        if options.table is not None:
            write_text(options.table, "\n".join(page(found, about, options)))


def page(found: dict[str, dict[str, dict[str, Any]]], about: dict[str, str], options: argparse.Namespace) -> list[str]:
    """The tables."""
    compared = f", before: revision {about['before']}" if "before" in about else ""
    missing = [name for name in MODELS if name not in found]
    loads = [row["load"] for both in found.values() for row in both.values() if "load" in row]
    busy = f" Load average of the machine meanwhile: {min(loads):.0f} to {max(loads):.0f}." if loads else ""
    rounds = f"the quickest of {options.rounds} runs" if options.rounds > 1 else "one run"
    lines = [
        "# What a derivation costs",
        "",
        f"`python benchmarks/derive.py{' --before BEFORE/src' if compared else ''}"
        f"{f' --rounds {options.rounds}' if options.rounds > 1 else ''}`",
        "",
        f"{about['processor']}, 1 thread, torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}{compared}; {rounds} each, in turns. Random weights, training mode; images 2 × 3 × 224 × "
        "224. Seconds of processor time of `racecar.Racecar(model, x)`; memory in MiB, the peak above what was there "
        f"with the model.{busy}",
        "",
        "The proof runs the model and its program once each, forward and backward: about two plain steps. Memory: what "
        "a plain step needs (activations, and one gradient at a time) a derivation needs too; a copy of weights or "
        "gradients would come on top.",
        *(["", f"Not run: {', '.join(missing)}."] if missing else []),
        "",
        "| model | weights, MiB | seconds before | after | without the proof, before | after | a plain step, seconds "
        "| memory before | after | a plain step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, both in found.items():
        lines.append(_row(name, both))
    lines += ["", "Where the seconds go, after:", "", f"| model | {' | '.join(STAGES)} |", "|---" * 7 + "|"]
    for name, both in found.items():
        if "stages" in (row := both["after"]):
            cells = [f"{row['stages'][stage]:.2f}" for stage in STAGES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Sentences of other lengths. The second length makes the program for all lengths; each further one:",
        "",
        "| model | further lengths | median seconds before | most | median after | most |",
        "|---|---|---|---|---|---|",
    ]
    for name, both in found.items():
        if both["after"].get("lengths"):
            numbers = [_lengths(both.get(label, {})) for label in ("before", "after")]
            lines.append(f"| {name} | {len(both['after']['lengths']) - 1} | {' | '.join(numbers)} |")
    return [*lines, ""]


def _row(name: str, both: dict[str, dict[str, Any]]) -> str:
    before, after = both.get("before", {}), both["after"]
    if "why" in after:
        return f"| {name} | no: {after['why']} | | | | | | | | |"

    def seconds(row: dict[str, Any], value: Callable[[dict[str, Any]], float]) -> str:
        return f"{value(row):.1f}" if "stages" in row else str(row.get("why", ""))

    cells = [
        f"{after['weights']:.0f}",
        *(seconds(row, value) for value in (total, without_proof) for row in (before, after)),
        f"{after['step']:.1f}",
        f"{before['memory']:.0f}" if "memory" in before else "",
        f"{after['memory']:.0f}",
        f"{after['step_memory']:.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _lengths(row: dict[str, Any]) -> str:
    further = row.get("lengths", [])[1:]
    return f"{statistics.median(further):.3f} | {max(further):.3f}" if further else " | "


if __name__ == "__main__":
    main()
