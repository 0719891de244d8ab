"""VGG19 at ImageNet's size: a step of Std and RR^16, the pipeline that decodes photographs, both together, and λ.

    python benchmarks/vgg.py --data PHOTOGRAPHS --table results/vgg-speed.md

Std and RR take turns within one run, so their ratio holds on a noisy machine; times are the best of all turns. FLOPs
are counted by ``torch.utils.flop_counter`` over a whole step. The last table projects the full Table 15, and says so.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import DEVICE, Step, flops, turns

import racecar
from racecar.study.commands.study import preset
from racecar.study.core.environment import environment
from racecar.study.core.files import read_json, write_text
from racecar.study.images.crops import Crops
from racecar.study.images.load import train_and_validation
from racecar.study.vgg.experiment import IMAGENET
from racecar.study.vgg.network import DEPTH, VGG19, initialise
from racecar.study.vgg.photographs import Photographs, load

TRAIN = 1_281_167  # images of ImageNet-1k
PAPER = {"Std": 0.308, "RR": 0.636}  # seconds per batch of 24
PEAK = 989e12  # of an H100, dense bfloat16, by its data sheet
SHARE = 0.4  # of the peak, assumed for convolutions of this size


class Step19:
    """A training step of VGG19: forward, reverse, backward, SGD with momentum; bfloat16 by autocast, channels last."""

    def __init__(self, variant: str, batch: int, compiled: bool) -> None:
        net = VGG19()
        initialise(net, 0)
        self.net = net.to(DEVICE, memory_format=torch.channels_last)
        x = torch.randn(batch, 3, 224, 224).to(DEVICE, memory_format=torch.channels_last)
        self.rr = racecar.Racecar(self.net, x, layers=DEPTH, weight=1e-10, reduction="sum") if variant == "RR" else None
        self.x, self.labels = x, torch.arange(batch, device=DEVICE)
        self.optimiser = torch.optim.SGD(self.net.parameters(), 1e-4, 0.9, nesterov=True, weight_decay=5e-4, fused=True)
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            output, penalty = self.rr(x) if self.rr is not None else (self.net(x), 0.0)
            return F.cross_entropy(output, labels) + penalty

    def on(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimiser.zero_grad()
        self.loss(x, labels).backward()
        self.optimiser.step()

    def __call__(self) -> None:
        self.on(self.x, self.labels)


def step_table(batch: int, seconds: float, compiled: bool) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The lines, seconds per image, FLOP per image."""
    steps: dict[str, Step] = {v: Step19(v, batch, compiled) for v in ("Std", "RR")}
    best = turns(steps, seconds)
    memory = {}
    for name, step in steps.items():
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            memory[name] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    count = {name: flops(Step19(name, 2, False)) / 2 for name in steps}
    lines = [
        "| | step, s | images/s | RR / Std | TFLOP per image | FLOPs, RR / Std | TFLOP/s "
        "| peak memory, both networks held | the paper, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in steps:
        lines.append(
            f"| {name} | {best[name]:.3f} | {batch / best[name]:.2f} | {best[name] / best['Std']:.2f} | "
            f"{count[name] / 1e12:.4f} | {count[name] / count['Std']:.2f} | "
            f"{batch * count[name] / best[name] / 1e12:.3f} | {memory.get(name, 'not measured')} | "
            f"{PAPER[name]} (ratio {PAPER[name] / PAPER['Std']:.2f}) |"
        )
        print(lines[-1], flush=True)
    return lines, {v: t / batch for v, t in best.items()}, count


def pipeline_table(photographs: Photographs, batch: int, seconds: float, compiled: bool) -> list[str]:
    """Images per second of the loader alone, of a plain step alone, and of both."""
    step, found = Step19("Std", batch, compiled), {}

    def batches():
        epochs, number = photographs.batches(batch, 0, "none", 0, 1), 0
        while True:
            yield from (b for b in epochs.epoch(number) if len(b[1]) == batch)
            number += 1

    def rate(work) -> float:
        for _ in range(2):
            work()
        _wait()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds or count < 3:
            work()
            count += 1
        _wait()
        return batch * count / (time.perf_counter() - began)

    stream = batches()
    found["loader alone"] = rate(lambda: next(stream))
    found["step alone (Std)"] = rate(step)
    found["both"] = rate(lambda: step.on(*next(stream)[:2]))
    lines = [f"| images/s, {photographs.train.decoders.processes} decoding processes | |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in found.items()]
    print("\n".join(lines), flush=True)
    return lines


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def weight_table(photographs: Photographs, cifar: str | None) -> list[str]:
    """The penalty at the first step: Table 15's λ on VGG19, the small preset's on its network."""
    lines = ["| network and batch | λ | penalty at the first step |", "|---|---|---|"]
    x = photographs.some_tests(8)
    cases = [("VGG19, 24 photographs of 224 × 224", VGG19(), x, 1e-10, 24 / len(x))]
    if cifar is not None:
        images, _ = train_and_validation(cifar, channels=3)
        weight = preset("vgg", "--preset", "small").weight
        cases.append(("width 16, 64 images of 32 × 32", VGG19(10, 16, 1), IMAGENET(images.pixels[:64]), weight, 1.0))
    for name, net, batch, weight, times in cases:
        initialise(net, 0)
        rr = racecar.Racecar(net, batch[:2].cpu(), layers=DEPTH, weight=weight, reduction="sum")
        with torch.no_grad():
            penalty = float(rr(batch.cpu())[1]) * times
        lines.append(f"| {name} | {weight:g} | {penalty:.3f} |")
        print(lines[-1], flush=True)
    return lines


def trained_lines(folder: Path) -> list[str]:
    """What a ``racecar study vgg --out FOLDER`` was, and the mean losses of its runs."""
    about = read_json(folder / "study.json")
    config, words = about["config"], about["command"].split()
    for name, instead in (("--data", "PHOTOGRAPHS"), ("--out", "OUT")):
        words[words.index(name) + 1] = instead
    lines = [
        "## Trained on real photographs",
        "",
        f"`{' '.join(words)}`",
        "",
        f"{about['sources']['A']}; {config['size']} × {config['size']} pixels; one seed. Cross entropy, mean over an "
        "epoch. A test accuracy would say nothing, as every photograph shows a class of its own.",
        "",
        "| model | steps | first epoch | in the middle | last epoch | racecar loss, first and last epoch |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("runs/*/*/run.json"), key=lambda p: p.stat().st_mtime):
        run = read_json(path)
        history = run["history"]
        recipe = config[{"A-start": "start", "A": "a", "AA": "aa"}[run["model"].partition("_")[2]]]
        steps = len(history) * math.ceil(run["train_images"] / recipe["batch_size"])
        losses = " | ".join(f"{history[i]['loss']:.3f}" for i in (0, len(history) // 2, -1))
        penalties = [f"{history[i]['penalty']:.3g}" for i in (0, -1)] if history[0]["penalty"] else ["—"]
        lines.append(f"| {run['model']} | {steps} | {losses} | {', '.join(penalties)} |")
    count = run["train_images"]
    return [
        *lines,
        "",
        f"Guessing among the {count} classes that are there has a loss of {math.log(count):.3f}, among all of them one "
        f"of {math.log(about['classes']):.3f}.",
    ]


def projection_table(seconds: dict[str, float], work: dict[str, float], device: str) -> list[str]:
    """Hours of the full Table 15, Std and RR together, one seed. A projection, not a measurement."""
    plain = 6 + 36 + 22 + 22  # epochs: the start, Std_A, Std_AA, RR_AA
    mirrored = 36  # RR_A

    def hours(std: float, rr: float) -> float:
        return TRAIN * (plain * std + mirrored * rr) / 3600

    rows = [
        (f"this machine's step ({device})", seconds["Std"], seconds["RR"]),
        ("the paper's seconds per batch of 24, its GPU", PAPER["Std"] / 24, PAPER["RR"] / 24),
        (
            f"an H100 at {SHARE:.0%} of its {PEAK / 1e12:.0f} TFLOP/s (assumed)",
            work["Std"] / (SHARE * PEAK),
            work["RR"] / (SHARE * PEAK),
        ),
    ]
    lines = [
        "| projected from | Std, images/s | RR, images/s | all runs on 1 device, hours | on 8, at 90 % efficiency "
        "(assumed) |",
        "|---|---|---|---|---|",
    ]
    for name, std, rr in rows:
        whole = hours(std, rr)
        lines.append(f"| {name} | {1 / std:.3g} | {1 / rr:.3g} | {whole:,.0f} | {whole / 8 / 0.9:,.0f} |")
    return lines


def given_twice(source: str, folder: Path) -> str:
    """A folder whose training photographs are its test's too: for speed, where none can be held out."""
    for number, file in enumerate(sorted(Path(source).resolve().glob("train*.parquet"))):
        for split in ("train", "test"):
            (folder / f"{split}-{number:05}.parquet").symlink_to(file)
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="photographs: a hub name, parquet or an image folder")
    parser.add_argument("--cifar", default=None, help="CIFAR-10, for the λ of the small preset")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--batch", type=int, default=24, help="24 in Table 15")
    parser.add_argument("--seconds", type=float, default=20.0, help="per measurement")
    parser.add_argument("--decoders", type=int, default=1, help="decoding processes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--trained", type=Path, default=None, help="folder of a racecar study vgg, to show its losses")
    parser.add_argument("--compile", action="store_true", help="the step by torch.compile")
    parser.add_argument(
        "--same", action="store_true", help="a folder of parquet with one image per class: nothing is held out"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = environment()
    twice = tempfile.TemporaryDirectory()  # until the end: photographs are read when they are needed
    source = given_twice(options.data, Path(twice.name)) if options.same else options.data
    photographs = load(source, Crops(), IMAGENET, workers=options.decoders).to(DEVICE)
    device = about["processor"] if DEVICE.type == "cpu" else about["accelerator"]
    hidden = {str(options.table), str(options.data), str(options.cifar), str(options.trained), "--table"}
    given = " ".join(a for a in sys.argv[1:] if a not in hidden)
    given = given.replace("--data", "--data PHOTOGRAPHS").replace("--cifar", "--cifar CIFAR")
    given = given.replace("--trained", "--trained OUT")
    steps, seconds, work = step_table(options.batch, options.seconds, options.compile)
    lines = [
        "# VGG19 at ImageNet's size: cost",
        "",
        f"`python benchmarks/vgg.py {given}`",
        "",
        f"{device}, {options.threads} thread(s), torch {about['torch']}, Python {about['python']}, revision "
        f"{about['revision']}. 143 667 240 weights, {options.batch} images of 224 × 224 per step, bfloat16 by "
        f"autocast, channels last{', compiled' if options.compile else ''}.",
        "",
        "## A step",
        "",
        *steps,
        "",
        "## The pipeline",
        "",
        *pipeline_table(photographs, options.batch, options.seconds, options.compile),
        "",
        f"{photographs.train_count} photographs, decoded, cropped at random and mirrored while the network trains. "
        "On a CPU the decoding processes and the step share the cores.",
        "",
        "## λ",
        "",
        *weight_table(photographs, options.cifar),
        "",
        *([*trained_lines(options.trained), ""] if options.trained is not None else []),
        "## Projection of the full study, not measured",
        "",
        *projection_table(seconds, work, device),
        "",
        f"{TRAIN} images; the common start of 6 epochs, 36 of Std_A, 36 of RR^16_A, 22 of each AA; evaluation left "
        "out, the pipeline assumed to keep up.",
        "",
    ]
    if options.table is not None:
        write_text(options.table, "\n".join(lines))


if __name__ == "__main__":
    main()
