"""Memory over many training steps: whether anything is kept that should not be.

    python benchmarks/steady.py --table results/steady.md

Three networks are trained with plain loops for 20 000 steps each, on batches of changing sizes: a conv net with batch
norm, its cheaper ways taking turns; a transformer with checkpoint="both"; a recurrent net over sequences of changing
lengths. Resident memory, tensors that are alive and Python's objects are counted on the way.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.core.terminal import progress_bar
from racecar.study.report.markdown import markdown

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the steps, at which memory is looked at


def conv_net() -> Iterator[Callable[[], Tensor]]:
    """Every setting of the cheaper ways in turn, on the same weights."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)),
    )
    x = torch.randn(16, 3, 8, 8)
    ways = [{}, {"every": 3}, {"fraction": 0.5}, {"layerwise": True, "subset": 1}, {"checkpoint": True}]
    turns = [racecar.Racecar(net, x, weight=0.1, **options) for options in ways]  # type: ignore[arg-type]
    yield from _losses(turns, lambda step: x[: 8 + step % 9])


def transformer() -> Iterator[Callable[[], Tensor]]:
    """Four layers, their dropout included."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(16, 4))
    x = torch.randn(8, 6, 16)
    yield from _losses([racecar.Racecar(net, x, weight=0.1, checkpoint="both")], lambda step: x[: 4 + step % 5])


class Recurrent(nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, steps, 4) → (N, 4)."""
        return self.head(self.lstm(x)[0][:, -1])


def recurrent() -> Iterator[Callable[[], Tensor]]:
    """Eight lengths."""
    x = torch.randn(8, 10, 4)
    yield from _losses([racecar.Racecar(Recurrent(), x, weight=0.1)], lambda step: x[:, : 3 + step % 8])


NETWORKS = {
    "conv net, five ways in turn": conv_net,
    'transformer, `checkpoint="both"`': transformer,
    "LSTM, eight lengths": recurrent,
}


def _losses(turns: list[racecar.Racecar], batch: Callable[[int], Tensor]) -> Iterator[Callable[[], Tensor]]:
    optimiser = torch.optim.SGD(turns[0].parameters(), 1e-3)
    step = 0
    while True:

        def train(step: int = step) -> Tensor:
            output, penalty = turns[step % len(turns)](batch(step))
            loss: Tensor = output.square().mean() + penalty
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        yield train
        step += 1


def counted() -> tuple[float, int, int]:
    """MiB of resident memory, tensors alive, Python's objects."""
    gc.collect()
    objects = gc.get_objects()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages / 256, sum(issubclass(type(o), Tensor) for o in objects), len(objects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    about = environment()
    places = {max(1, round(share * options.steps)) for share in SHARES}
    rows = []
    for name, make in NETWORKS.items():
        with progress_bar(f"{name}: steps", options.steps, 0) as advance:
            for step, train in enumerate(make(), 1):
                train()
                advance(step)
                if step in places:
                    mib, tensors, objects = counted()
                    rows.append([name, f"{step}", f"{mib:.1f}", f"{tensors}", f"{objects}"])
                if step == options.steps:
                    break
    text = f"""# Memory over many steps

`python benchmarks/steady.py --steps {options.steps}`

{about["processor"]}, 1 thread, torch {about["torch"]}, Python {about["python"]}, revision {about["revision"]}. \
Batches, or lengths, change from step to step. Each network is added to what the one before has left.

{chr(10).join(markdown(["network", "steps", "resident, MiB", "tensors alive", "Python's objects"], rows))}
"""
    print(text)
    if options.table is not None:
        write_text(options.table, text)


if __name__ == "__main__":
    main()
