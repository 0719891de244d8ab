"""n-MNIST with motion blur (Basu et al. 2017): the published file where a user has it, else made from MNIST.

Their text: a linear motion of the camera by 5 pixels at an angle of 15 degrees counter-clockwise, MATLAB's
``fspecial('motion', 5, 15)``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

LENGTH, ANGLE = 5, 15
MADE = (
    f"n-MNIST made from MNIST with a motion filter of {LENGTH} pixels at {ANGLE}° counter-clockwise: the original "
    "file was not at hand"
)


def motion_kernel(length: float, angle: float) -> Tensor:
    """MATLAB's ``fspecial('motion', length, angle)``: a line through the centre, antialiased, of sum 1.

    Args:
        length: of the motion in pixels.
        angle: in degrees, counter-clockwise from the horizontal.

    Returns:
        [height, width] in float64, both odd.
    """
    length = max(1.0, length)
    half = (length - 1) / 2
    phi = math.radians(angle % 180)
    cos, sin = math.cos(phi), math.sin(phi)
    sign = 1 if cos >= 0 else -1
    tiny = length * np.finfo(float).eps
    reach_x, reach_y = math.trunc(half * cos + sign - tiny), math.trunc(half * sin + 1 - tiny)
    # One half of the line, from the centre out.
    x, y = np.meshgrid(np.arange(0, reach_x + sign, sign), np.arange(reach_y + 1))
    distance = y * cos - x * sin  # from the line
    radius = np.hypot(x, y)
    beyond = (radius >= half) & (np.abs(distance) <= 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        past = half - np.abs((x + distance * sin) / cos)
    distance = np.where(beyond, np.hypot(distance, past), distance)
    weight = np.clip(1 + np.finfo(float).eps - np.abs(distance), 0, None)
    height, width = weight.shape
    kernel = np.zeros((2 * height - 1, 2 * width - 1))
    kernel[:height, :width] = weight[::-1, ::-1]
    kernel[height - 1 :, width - 1 :] = weight
    kernel /= kernel.sum() + np.finfo(float).eps * length * length
    return torch.from_numpy((kernel[::-1] if cos > 0 else kernel).copy())


def blurred(images: Images) -> Images:
    """Every image filtered with the motion kernel, zero outside its frame, rounded to uint8."""
    kernel = motion_kernel(LENGTH, ANGLE).float()
    pad = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    parts = [
        F.conv2d(part.float(), kernel[None, None], padding=pad).round().clamp(0, 255).to(torch.uint8)
        for part in images.pixels.split(10_000)
    ]
    return Images(torch.cat(parts), images.labels, images.classes)


def read_mat(path: Path) -> tuple[Images, Images]:
    """Training and test images of the published file ``mnist-with-motion-blur.mat``.

    Raises:
        StudyError: not such a file.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise StudyError(f"{path} does not exist")
    try:
        content = loadmat(path)
        parts = []
        for part in ("train", "test"):
            pixels = torch.from_numpy(np.ascontiguousarray(content[f"{part}_x"], dtype=np.uint8))
            labels = torch.from_numpy(np.asarray(content[f"{part}_y"])).double().argmax(1)
            parts.append(Images(pixels.view(-1, 1, 28, 28), labels, tuple(map(str, range(10)))))
    except Exception as error:  # scipy raises whatever the file makes it stumble over
        raise StudyError(
            f"{path} is not the n-MNIST file: it needs train_x, train_y, test_x and test_y ({error})"
        ) from error
    return parts[0], parts[1]
