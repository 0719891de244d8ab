"""Draws docs/regenerated.png: digits, and what three networks that classify them regenerate.

`make regenerated`, some minutes on two cores. Table 9's network on 10 000 images of MNIST, 10 epochs, from one start:
Std trains plainly, RR^3 with racecar training, Dec^3 with an untied decoder of the same shape. What a reverse pass
gives is shown clipped to the range of the images, 0 to 1. The error is the mean squared difference over the variance
of the images, on 1000 test images. It is one run of each; results/digits-small.md has means over seeds.
"""

import argparse
import copy
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import racecar
from racecar.study.core.initialisation import initialise_glorot
from racecar.study.digits.experiment import HUB, network
from racecar.study.images.load import train_and_validation

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NAMES = {"Std": "plain (Std)", "RR": "racecar (RR$^3$)", "Dec": "untied decoder (Dec$^3$)"}


def trained(name: str, start: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> racecar.Racecar:
    """A copy of ``start`` after training."""
    model = copy.deepcopy(start)
    decoder = copy.deepcopy(start) if name == "Dec" else None
    rr = racecar.Racecar(
        model, images[:64], layers=3, weight=1e-5, reduction="sum", input_range="paper", decoder=decoder
    )
    optimizer = torch.optim.Adam(rr.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(64):
            with torch.autocast("cpu", torch.bfloat16):
                output, penalty = (model(images[batch]), 0.0) if name == "Std" else rr(images[batch])
                loss = cross_entropy(output, labels[batch])
            optimizer.zero_grad()
            (loss + penalty).backward()
            optimizer.step()
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}", flush=True)
    return rr


def main() -> None:
    """Train, regenerate, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="hub", help="a folder with mnist in parquet, or hub")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    source = HUB if args.data == "hub" else str(Path(args.data) / "mnist")
    train, test = train_and_validation(source, channels=1)
    images, labels = train.pixels[: args.images] / 255, train.labels[: args.images]
    held_out, classes = test.pixels[:1000] / 255, test.labels[:1000]
    start = network()
    initialise_glorot(start, seed=0)
    start = start.to(memory_format=torch.channels_last)

    shown = [int((classes == digit).nonzero()[0]) for digit in range(10)]
    rows = {"input": held_out[shown]}
    for name, words in NAMES.items():
        rr = trained(name, start, images, labels, args.epochs)
        with torch.no_grad():
            accuracy = (rr.model(held_out).argmax(1) == classes).float().mean().item()
            image, regenerated = rr.reconstruct(held_out)["conv1"]
        error = ((image - regenerated).square().mean() / image.var()).item()
        print(f"{name}: accuracy {accuracy:.3f}, error {error:.3g}")
        rows[f"{words}\naccuracy {accuracy:.3f}, error {round(error) if error > 10 else f'{error:.2f}'}"] = regenerated[
            shown
        ]

    figure, axes = plt.subplots(len(rows), 10, figsize=(8, 2.7))
    for (words, pictures), line in zip(rows.items(), axes, strict=True):
        for picture, place in zip(pictures, line, strict=True):
            place.imshow(picture[0].clamp(0, 1), cmap="gray", vmin=0, vmax=1)
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.25, right=0.995, top=0.99, bottom=0.01, wspace=0.05, hspace=0.08)
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
