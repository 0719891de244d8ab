"""Images that are decoded while a network trains: how fast, beside images in memory, and how much memory that takes.

    python benchmarks/images.py --photographs imagenet_sample_1000.npz --work DIR --table results/images.md

Fifty links to each of 1000 photographs stand for 50 000. Decoding, step and both take turns within one run, so that
their ratios hold on a noisy machine. For 1, 10 and 100 GB, links to photographs of 12 megapixels are found, looked at
and decoded for some steps, in a process each, the peak of whose resident memory is reported.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import DEVICE

from racecar.study.classification.batches import Normalisation, Sets
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.images.fitting import load_fitting
from racecar.study.images.labelled import Labelled
from racecar.study.vgg.network import VGG19, initialise

CLASSES, LINKS = 10, 50
MEGAPIXELS = (4000, 3000)
BATCH = 64


def photographs(archive: Path) -> list[bytes]:
    """JPEGs of an archive as shared by this project: ``data`` and ``offsets``."""
    with np.load(archive) as found:
        data, ends = found["data"].tobytes(), found["offsets"]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def linked(folder: Path, pictures: list[bytes], count: int) -> None:
    """``count`` files in class folders, links to the pictures."""
    if folder.exists():
        return
    base = folder.with_name(f"{folder.name}-base")
    base.mkdir(parents=True)
    for i, content in enumerate(pictures):
        (base / f"{i}.jpg").write_bytes(content)
    for i in range(CLASSES):
        (folder / f"class-{i}").mkdir(parents=True)
    for i in range(count):
        os.link(base / f"{i % len(pictures)}.jpg", folder / f"class-{i % CLASSES}" / f"{i:07}.jpg")


def large(pictures: list[bytes]) -> list[bytes]:
    """Some of them as a camera would write them."""
    found = []
    for content in pictures[:20]:
        buffer = io.BytesIO()
        picture = Image.open(io.BytesIO(content)).convert("RGB").resize(MEGAPIXELS, Image.Resampling.BICUBIC)
        noisy = np.asarray(picture, np.int16) + np.random.default_rng(0).integers(-6, 7, (*picture.size[::-1], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=85)
        found.append(buffer.getvalue())
    return found


def endless(images: Labelled) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented batches of whole size, epoch after epoch."""
    batches = Sets(images, images, Normalisation.unit(3)).batches(BATCH, 0, "flip-crop", 0, 1)
    for epoch in itertools.count():
        yield from ((x, y) for x, y, _ in batches.epoch(epoch) if len(y) == BATCH)


class Training:
    """Steps of SGD on VGG19 of some width."""

    def __init__(self, width: int, size: int) -> None:
        net = VGG19(CLASSES, width, size // 32)
        initialise(net, 0)
        self.net = net.to(DEVICE)
        self.optimiser = torch.optim.SGD(self.net.parameters(), 1e-4, 0.9)
        self.fixed = torch.rand(BATCH, 3, size, size, device=DEVICE), torch.arange(BATCH, device=DEVICE) % CLASSES

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimiser.zero_grad()
        F.cross_entropy(self.net(x), labels).backward()
        self.optimiser.step()


def rate(work: Callable[[], object], seconds: float) -> float:
    """Images per second."""
    for _ in range(6):  # what was ready before counts for none
        work()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 3:
        work()
        count += 1
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
    return BATCH * count / (time.perf_counter() - began)


def speeds(folder: Path, size: int, width: int, decoders: int, seconds: float, rounds: int) -> dict[str, float]:
    """Images per second; the best of some rounds, in which all take turns."""
    on = load_fitting(str(folder), size=size, channels=3, stream=True, decoders=decoders, device=DEVICE).train
    some = on.take(torch.randperm(len(on), generator=torch.Generator().manual_seed(0))[:2000])
    pixels = torch.cat([p for p, _ in some.in_order(BATCH)])
    from racecar.study.images.decoded import Images

    held = endless(Images(pixels, some.labels.to(DEVICE), on.classes))
    stream, training = endless(on), Training(width, size)
    works: dict[str, Callable[[], object]] = {
        "decoding alone": lambda: next(stream),
        "step alone": lambda: training(*training.fixed),
        "both": lambda: training(*next(stream)),
        "step on images in memory": lambda: training(*next(held)),
    }
    found = dict.fromkeys(works, 0.0)
    for _, (name, work) in itertools.product(range(rounds), works.items()):
        found[name] = max(found[name], rate(work, seconds))
        print(name, f"{found[name]:.0f}", flush=True)
    return found


def high_water(process: str) -> float:
    """The peak of a process's resident memory, in MiB."""
    lines = Path("/proc", process, "status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def peak(folder: Path, size: int, steps: int) -> None:
    """Print what some steps on a folder take, as JSON; in a process of its own."""
    began = time.perf_counter()
    loaded = load_fitting(str(folder), size=size, channels=3, stream=True, decoders=1)
    found = time.perf_counter() - began
    batches, training = endless(loaded.train), Training(16, size)
    for _ in range(steps):
        training(*next(batches))
    others = sum(high_water(str(child.pid)) for child in multiprocessing.active_children())
    images = len(loaded.train) + len(loaded.validation)
    print(json.dumps({"images": images, "seconds": found, "own": high_water("self"), "others": others}))


def memory(work: Path, pictures: list[bytes], sizes: list[float], size: int, steps: int) -> list[str]:
    """The table of the peaks."""
    lines = ["| on disk | images | found and looked at in | peak, training process | peak, decoding process |"]
    lines.append("|---|---|---|---|---|")
    each = sum(map(len, pictures)) / len(pictures)
    for gigabytes in sizes:
        folder = work / f"gb-{gigabytes:g}"
        linked(folder, pictures, round(gigabytes * 1e9 / each))
        command = [sys.executable, __file__, "--peak", str(folder), "--size", str(size), "--steps", str(steps)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        found = json.loads(said)
        lines.append(
            f"| {gigabytes:g} GB | {found['images']} | {found['seconds']:.0f} s | {found['own']:.0f} MiB | "
            f"{found['others']:.0f} MiB |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="npz with JPEGs: data and offsets")
    parser.add_argument("--work", type=Path, help="folder for the links")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the step")
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peak", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak is not None:
        peak(options.peak, options.size, options.steps)
        return
    about, pictures = environment(), photographs(options.photographs)
    linked(options.work / "small", pictures, LINKS * len(pictures))
    lines = [
        "# Images decoded while a network trains: speed and memory",
        "",
        f"`python benchmarks/images.py --photographs imagenet_sample_1000.npz --work DIR --size {options.size} "
        f"--decoders {options.decoders} --threads {options.threads} --seconds {options.seconds:g} --rounds "
        f"{options.rounds} --table results/images.md`",
        "",
        f"{about['processor']}, accelerator: {about['accelerator']}; torch {about['torch']}, Python {about['python']}, "
        f"revision {about['revision']}. Other programs were running on the same cores: ratios count, not rates.",
        "",
        "## Speed",
        "",
        f"{LINKS * len(pictures)} files, {LINKS} links to each of {len(pictures)} photographs (JPEG, shorter side 256) "
        f"scaled to {options.size} × {options.size}, flip-crop, batches of {BATCH}; {options.decoders} decoding "
        f"process(es), {options.threads} thread(s) for the step. VGG19 of two widths, so that decoding is once what "
        f"takes longer and once what does not. Best of {options.rounds} rounds in which all take turns.",
        "",
        "| images/s | decoding alone | step alone | both | both / the slower of the two | step on images in memory | "
        "both / in memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for width in (4, 16):
        found = speeds(options.work / "small", options.size, width, options.decoders, options.seconds, options.rounds)
        slower = min(found["decoding alone"], found["step alone"])
        lines.append(
            f"| width {width} | {found['decoding alone']:.0f} | {found['step alone']:.0f} | {found['both']:.0f} | "
            f"{found['both'] / slower:.2f} | {found['step on images in memory']:.0f} | "
            f"{found['both'] / found['step on images in memory']:.2f} |"
        )
        print(lines[-1], flush=True)
    cameras = large(pictures)
    lines += [
        "",
        "## Memory",
        "",
        f"Links to {len(cameras)} photographs of {MEGAPIXELS[0]} × {MEGAPIXELS[1]} pixels, "
        f"{sum(map(len, cameras)) / len(cameras) / 1e6:.1f} MB each, stand for the data. A row is a process that "
        f"finds them, reads their headers, and trains {options.steps} steps; the peaks of its resident memory (VmHWM) "
        "and of its decoding process's are given.",
        "",
        *memory(options.work, cameras, options.gigabytes, options.size, options.steps),
        "",
    ]
    if options.table is not None:
        write_text(options.table, "\n".join(lines))


if __name__ == "__main__":
    main()
