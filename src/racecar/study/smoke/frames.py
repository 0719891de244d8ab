"""Pictures of one task: which train and which test, batches in a seeded order, flipped and rotated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.study.smoke.network import FACTOR


@dataclass(frozen=True)
class Frames:
    """Training and test pictures.

    Attributes:
        train, test: [n, C, h, w], float32, 0 to 1.
    """

    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> Frames:
        """On a device."""
        return Frames(self.train.to(device), self.test.to(device))


def of_simulations(density: Tensor, share: float, tests: int | None) -> Frames:
    """Whole simulations for training, whole others for the test: neighbouring frames are nearly the same.

    Args:
        density: [simulations, frames, 1, size, size].
        share: of the simulations that trains, 0.1 in the paper; at least one.
        tests: how many test frames, evenly spaced over all test simulations; None: all.

    Raises:
        ValueError: a single simulation, which nothing is left of for the test.
    """
    count = len(density)
    if count < 2:
        raise ValueError(f"{count} simulation cannot be divided into training and test: make two or more")
    first = min(max(1, round(share * count)), count - 1)
    return Frames(density[:first].flatten(0, 1).contiguous(), spaced(density[first:].flatten(0, 1), tests))


def of_captures(pixels: Tensor, view: Tensor, share: float, tests: int | None) -> Frames:
    """Frames of the first camera for training, those of the others for the test, if there are several cameras.

    Args:
        pixels: [n, C, h, w], uint8.
        view: [n], the camera.
        share: of all frames that trains, 0.1 in the paper, evenly spaced; with one camera they are the first ones.
        tests: how many test frames, evenly spaced; None: all.

    Raises:
        ValueError: too few frames to divide.
    """
    if len(pixels) < 2:
        raise ValueError(f"{len(pixels)} frames cannot be divided into training and test: give two or more")
    wanted = min(max(1, round(share * len(pixels))), len(pixels) - 1)
    own = view == view.min()
    if bool(own.all()):
        train, test = pixels[:wanted], pixels[wanted:]
    else:
        train, test = spaced(pixels[own], wanted), pixels[~own]
    return Frames(train.float() / 255, spaced(test, tests).float() / 255)


def spaced(pictures: Tensor, count: int | None) -> Tensor:
    """``count`` of them, evenly spaced."""
    if count is None or count >= len(pictures):
        return pictures
    return pictures[(torch.arange(count) * len(pictures)) // count]


def lowered(pictures: Tensor) -> Tensor:
    """Low resolution: the mean of every 4 × 4 pixels."""
    return F.avg_pool2d(pictures, FACTOR)


def raised(low: Tensor) -> Tensor:
    """Low resolution at the high one's size, for the discriminator and as the simplest super-resolution."""
    return F.interpolate(low, scale_factor=FACTOR, mode="nearest")


def batch(frames: Tensor, size: int, seed: int, step: int) -> Tensor:
    """The batch of a step: a function of (seed, step), so nothing else needs to be saved.

    Every epoch visits all frames in a new order; each is flipped and rotated by quarter turns at random (flipped alone
    where pictures are not square). The last, smaller batch of an epoch is left out, as batch norm has it easier.

    Args:
        frames: [n, C, h, w].
        size: pictures per batch, at most n are used.
        seed, step: of the run.
    """
    size = min(size, len(frames))
    epoch, position = divmod(step, len(frames) // size)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(frames), generator=generator)[position * size : (position + 1) * size]
    chosen = frames[order.to(frames.device)]
    turned = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + 7)
    kinds = torch.randint(0, 8, (size,), generator=turned).tolist()
    if frames.shape[-1] != frames.shape[-2]:
        kinds = [kind & ~2 for kind in kinds]
    return torch.stack([_turned(picture, kind) for picture, kind in zip(chosen, kinds, strict=True)])


def _turned(picture: Tensor, kind: int) -> Tensor:
    """One of the square's eight symmetries, by bits: left to right, transposed, upside down."""
    if kind & 1:
        picture = picture.flip(-1)
    if kind & 4:
        picture = picture.flip(-2)
    return picture.transpose(-1, -2) if kind & 2 else picture
