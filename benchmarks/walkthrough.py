"""What docs/images-walkthrough.md is made from: a folder of 1000 photographs, and how far scores tell other pictures.

python benchmarks/walkthrough.py folder DATA photos       DATA: imagenet_sample/, mnist/ and scalarflow/ as packed
python benchmarks/walkthrough.py scores DATA runs/photos  100 pictures of each kind against the held-out photographs
"""

import gzip
import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from racecar.analysis import auroc, energy
from racecar.study.use.labelled import labelled
from racecar.study.use.network import Network
from racecar.study.use.regenerating import of_pixels

COUNT, COMPANY = 100, 32


def kind(label: int) -> str:
    """Of ImageNet's 1000 classes, in their order."""
    if 151 <= label <= 268:
        return "dog"
    if any(low <= label <= high for low, high in ((7, 24), (80, 100), (127, 146))):
        return "bird"
    return "other-animal" if label <= 397 else "thing"


def encoded(path: Path) -> list[bytes]:
    packed = np.load(path)
    data, ends = packed["data"].tobytes(), packed["offsets"]
    return [data[a:b] for a, b in pairwise(ends)]


def folder(data: Path, out: Path) -> None:
    path = data / "imagenet_sample" / "imagenet_sample_1000.npz"
    packed = np.load(path)
    for content, label, name in zip(encoded(path), packed["labels"].tolist(), packed["names"], strict=True):
        file = out / kind(label) / f"{name}-{label}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def others(data: Path, known: Tensor) -> dict[str, Tensor]:
    _, channels, size, _ = known.shape

    def resized(arrays: list[np.ndarray]) -> Tensor:
        pictures = [Image.fromarray(a).convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for a in arrays]
        return torch.from_numpy(np.stack([np.array(p) for p in pictures])).permute(0, 3, 1, 2).contiguous()

    digits = gzip.decompress((data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    frames = encoded(data / "scalarflow" / "scalarflow_real_600.npz")[:: 600 // COUNT]
    blurred = F.interpolate(known.float(), size=size // 4, mode="bilinear", antialias=True)
    return {
        "handwritten digits": resized(list(np.frombuffer(digits, np.uint8, offset=16).reshape(-1, 28, 28)[:COUNT])),
        "smoke": resized([np.array(Image.open(io.BytesIO(f)).convert("L")) for f in frames]),
        "noise": torch.randint(256, (COUNT, channels, size, size), generator=torch.Generator().manual_seed(0)).byte(),
        "the photographs, blurred": F.interpolate(blurred, size=size, mode="bilinear").round().byte(),
    }


def scores(data: Path, run: Path) -> None:
    network = Network.open(run)
    known = labelled(network, None).pixels

    def of(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = network.logits(pixels)
        found = of_pixels(network, pixels, ("",) * len(pixels), known[:COMPANY], "", compare=False)
        return found.errors[:, 0], energy(logits), -logits.softmax(1).amax(1)

    usual = of(known)
    print("| AUROC against the held-out photographs | error of the input | energy | 1 − highest probability |")
    print("|---|---|---|---|")
    for name, pixels in others(data, known).items():
        print(f"| {name} | " + " | ".join(f"{auroc(a, b):.2f}" for a, b in zip(usual, of(pixels), strict=True)) + " |")


if __name__ == "__main__":
    {"folder": folder, "scores": scores}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
