"""What pretraining without labels is good for: ``python benchmarks/reconstruct.py --data DIGITS --table FILE``.

Digits without labels, as ``racecar train --task reconstruct`` trains on them; then, as ``racecar transfer`` does,
linear probes of the frozen features, and all weights fine-tuned with few labels, beside the same from random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import datasets
import torch
from torch import nn

from racecar.study import Recipe, train, transfer
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.pretrain.transferring import FEW_LABELS
from racecar.study.report.markdown import markdown
from racecar.study.report.statistics import Summary, bounds, paired_difference, spread, summarise


def mlp(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, num_classes))
    )


def conv(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 49, num_classes)),
    )


def subset(source: str, folder: Path, images: int, tests: int) -> Path:
    """The first images of both splits, as parquet."""
    found = datasets.load_dataset(str(source))
    for split, count in (("train", images), ("test", tests)):
        found[split].select(range(count)).to_parquet(folder / f"{split}-00000.parquet")
    return folder


def measure(name: str, layers: int | None, data: Path, place: Path, seeds: int, epochs: int) -> dict[str, Summary]:
    """Of networks pretrained without labels; ``layers`` None: not trained at all."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        run = train(
            f"reconstruct:{name}",
            data,
            task="reconstruct",
            # A rate of nearly nothing is the network as it was drawn.
            recipe=Recipe(epochs=1 if layers is None else epochs, learning_rate=1e-12 if layers is None else 1e-3),
            out=place / f"{name}-{layers}-{seed}",
            seed=seed,
            trackers=(),
        )
        tuned = transfer(
            run,
            data,
            model=f"reconstruct:{name}",
            labels=0.05,
            scratch=layers is not None,
            recipe=Recipe(epochs=1 if layers is None else 20, batch_size=32),
            out=place / f"{name}-{layers}-{seed}-tuned",
            trackers=(),
        )
        values = {"error": run.error or 0.0, "probe": tuned.accuracy["probe"][0]}
        values |= {"few": tuned.accuracy[FEW_LABELS][0], "fine-tuned": tuned.accuracy["p_AB"][0]}
        if layers is not None:
            values["scratch"] = tuned.accuracy["p_B"][0]
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    summaries = {key: summarise(values) for key, values in found.items()}
    if "scratch" in found:
        summaries["difference"] = paired_difference(found["fine-tuned"], found["scratch"])
    return summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ylecun/mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--table", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        (folder := Path(place) / "data").mkdir()
        data = subset(options.data, folder, options.images, 2000)
        for name in ("mlp", "conv"):
            for layers in (None, 1):
                found = measure(name, layers, data, Path(place), options.seeds, options.epochs)
                gain = found.get("difference")
                rows.append(
                    [
                        f"{name}, {'as drawn' if layers is None else 'trained to reconstruct'}",
                        spread(found["error"]),
                        spread(found["probe"]),
                        spread(found["few"]),
                        spread(found["fine-tuned"]) if gain else "—",
                        f"{gain.mean:+.3f} {bounds(gain, sign='+')}" if gain else "—",
                    ]
                )
                print(rows[-1], flush=True)
    about = environment()
    header = ["network", "error", "probe", "probe, 10 labels a class", "fine-tuned", "− from scratch"]
    text = "\n".join(
        [
            "# Pretraining without labels",
            "",
            "`python benchmarks/reconstruct.py --table results/reconstruct.md`",
            "",
            f"{options.images} digits of MNIST without labels, {options.epochs} epochs of the penalty of the input "
            "(RR^1), Adam; then 5 % of the labels and 2000 test images. Error: ½‖I − I'‖² per element of images of "
            f"variance 1, on a tenth held out. Accuracies: mean ± standard deviation, n = {options.seeds} seeds. "
            f"{about['processor']}, 1 thread, torch {about['torch']}, revision {about['revision']}.",
            "",
            *markdown(header, rows),
            "",
        ]
    )
    print(text)
    if options.table is not None:
        write_text(options.table, text)


if __name__ == "__main__":
    main()
