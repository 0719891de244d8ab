"""The task of all examples: scikit-learn's handwritten digits (1797 real images, 8 × 8), one network, one order.

What differs between the examples is the loop alone; so they print the same losses.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

WEIGHT = 0.1  # λ
BATCH = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100, help="of the optimiser")
    return parser.parse_args()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def images_and_labels(steps: int) -> tuple[Tensor, Tensor]:
    """Shuffled once, with as many batches as there are steps: epochs follow one another."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[torch.arange(steps * BATCH) % len(order)]
    return images[order], labels[order]


def batches(steps: int) -> DataLoader:
    return DataLoader(TensorDataset(*images_and_labels(steps)), batch_size=BATCH)


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def report(loss: Tensor) -> None:
    print(f"{float(loss.detach()):.8f}", flush=True)
