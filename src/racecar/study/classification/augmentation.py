"""Images changed at random before the network sees them: moved and mirrored here, all else by torchvision's transforms.

What is drawn for an image is a function of a seed of its own, so that it depends neither on the processes that share a
batch nor on where a training was stopped.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

import racecar_command
from racecar.study.core.errors import StudyError

BuiltIn = Literal["none", "crop", "flip-crop"]
ByTorchvision = Literal["resized-crop", "randaugment", "trivialaugment"]
Augmentation = Literal[BuiltIn, ByTorchvision]


def by_torchvision(augmentation: Augmentation) -> bool:
    """Whether it is one of torchvision's."""
    return augmentation in get_args(ByTorchvision)


@cache
def transforms(asked: str) -> Any:
    """torchvision.transforms.v2.

    Args:
        asked: the option that needs it, for the message.

    Raises:
        StudyError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except ImportError as error:
        raise StudyError(f"{asked} needs {racecar_command.remedy('torchvision') or error}") from error


@cache
def _pipeline(augmentation: Augmentation, height: int, width: int) -> Any:
    v2 = transforms(f"augmentation {augmentation}")
    steps = [v2.RandomResizedCrop((height, width), antialias=True), v2.RandomHorizontalFlip()]
    steps += {"randaugment": [v2.RandAugment()], "trivialaugment": [v2.TrivialAugmentWide()]}.get(augmentation, [])
    return v2.Compose(steps)


def transformed(pixels: Tensor, augmentation: Augmentation, seeds: Tensor) -> Tensor:
    """Every image by torchvision's transforms, on the images' device; the random state of before comes back.

    Args:
        pixels: [N, C, H, W], uint8.
        augmentation: one of torchvision's.
        seeds: [N], below 2³², of what is drawn for each image.

    Raises:
        StudyError: torchvision is not installed.
    """
    pipeline = _pipeline(augmentation, *pixels.shape[2:])
    return torch.stack([pipeline(image) for image in _seeded(pixels, seeds.tolist())])


def erased(batch: Tensor, probability: float, seeds: Tensor) -> Tensor:
    """A rectangle of some images set to 0, which is the mean where they are normalised; in place.

    Args:
        batch: [N, C, H, W].
        probability: that an image loses one, of 2 to 33 % of its area (Zhong et al., 2020).
        seeds: [N], as above.

    Raises:
        StudyError: torchvision is not installed.
    """
    erasing = transforms("erasing").RandomErasing(probability, inplace=True)
    for image in _seeded(batch, seeds.tolist()):
        erasing(image)
    return batch


def mixed(batch: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, seed: int) -> tuple[Tensor, Tensor]:
    """Every image mixed with the next one of the batch, in one proportion λ, and their labels with it.

    Args:
        batch: [N, C, H, W].
        labels: [N].
        classes: how many there are.
        mixup: α of λ ~ Beta(α, α), images added up (Zhang et al., 2018); 0: not used.
        cutmix: the same, a rectangle of the one in the other (Yun et al., 2019); with both one of them is drawn.
        seed: of what is drawn.

    Returns:
        Images [N, C, H, W] and the labels' probabilities [N, classes].

    Raises:
        StudyError: torchvision is not installed.
    """
    v2 = transforms("mixup or cutmix")
    ways = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    ways += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        images, targets = v2.RandomChoice(ways)(batch, labels)
    return images, targets


def _seeded(images: Tensor, seeds: Iterable[int]) -> Iterable[Tensor]:
    """Image by image, the CPU's generator, which torchvision draws from, seeded for each."""
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            yield image


def moved(pixels: Tensor, shifts: Tensor, pad: int, mirrored: Tensor | None) -> Tensor:
    """Every image moved by its own shift inside its zero-padded frame, mirrored where asked; one gather.

    Args:
        pixels: [N, C, H, W].
        shifts: [N, 2], rows and columns from 0 to 2 · ``pad``.
        pad: of the frame.
        mirrored: [N], truth values; None: none.
    """
    n, _, height, width = pixels.shape
    framed = F.pad(pixels, (pad,) * 4)
    rows = shifts[:, :1] + torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).expand(n, width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + shifts[:, 1:]
    each = torch.arange(n, device=pixels.device)[:, None, None]
    return framed[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
