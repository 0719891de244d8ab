"""The paper's comparisons (Figures 10 to 13): which pictures, which losses, and a number for what the figures show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from racecar.study.core.errors import StudyError
from racecar.study.stylize.pictures import read_picture

COMPARISONS = ("shapes", "building", "horse", "detail")
FILES = {
    "building": ("tubingen", "hoovertowernight", "starry_night"),
    "horse": ("horse", "zebra"),
    "detail": ("golden_gate", "tubingen"),
}
OBJECT, BACKGROUND = (0.92, 0.55, 0.12), (0.16, 0.33, 0.55)  # of both shapes
Measure = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Pair:
    """A picture to be stylized.

    Attributes:
        name: of its PNG.
        content, style: [1, 3, h, w] between 0 and 1.
        style_only: whether L_style alone is minimised.
        measure: numbers for the result [1, 3, h, w].
        reference: what it should become, where there is such a thing.
    """

    name: str
    content: Tensor
    style: Tensor
    style_only: bool
    measure: Measure
    reference: Tensor | None = None


def pairs(comparison: str, pictures: Path | None, size: int, factor: int) -> list[Pair]:
    """The pictures of a comparison.

    Args:
        comparison: one of :data:`COMPARISONS`.
        pictures: folder with those of :data:`FILES`; not needed for the shapes.
        size: pixels of the longer side; of both sides of the shapes.
        factor: between high and low resolution of ``detail``.

    Raises:
        StudyError: a picture is missing.
    """
    if comparison == "shapes":
        return [_shapes(a, b, size) for a, b in (("disc", "square"), ("square", "triangle"), ("triangle", "disc"))]
    if pictures is None:
        raise StudyError(f"the comparison {comparison!r} needs pictures: give their folder with --pictures")
    found = {n: _read(pictures, n, size) for n in FILES[comparison]}
    if comparison == "building":
        style = found.pop("starry_night")
        return [Pair(name, content, style, False, lambda x: {}) for name, content in found.items()]
    if comparison == "horse":
        body = _body(found["horse"])
        return [Pair("horse", found["horse"], found["zebra"], False, lambda x: {"grass": _grass(x, body)})]
    return [_detail(name, _read(pictures, name, 2 * size), factor) for name in found]


def _read(folder: Path, name: str, size: int) -> Tensor:
    for path in sorted(folder.glob(f"{name}.*")):
        return read_picture(path, size)
    raise StudyError(f"{folder} has no picture {name}: it needs {', '.join(dict.fromkeys(sum(FILES.values(), ())))}")


# --- two shapes (Figure 11) -------------------------------------------------------------------------------------------


def shape(name: str, size: int) -> Tensor:
    """The mask of a ``"disc"``, ``"square"`` or ``"triangle"`` of about a fifth of the area, [size, size] bool."""
    line = torch.linspace(-1, 1, size)
    y, x = line[:, None], line[None, :]
    if name == "disc":
        return x.square() + y.square() < 0.5**2
    if name == "square":
        return (x.abs() < 0.44) & (y.abs() < 0.44)
    return (y < 0.45) & (y > 2 * x.abs() - 0.8)


def painted(mask: Tensor) -> Tensor:
    """A shape in its colours, [1, 3, h, w]."""
    colours = torch.tensor([BACKGROUND, OBJECT])
    return colours[mask.long()].permute(2, 0, 1)[None]


def recognised(picture: Tensor) -> Tensor:
    """Pixels that are nearer to the object's colour than to the background's, [h, w] bool."""
    near, far = (picture[0] - torch.tensor(c)[:, None, None] for c in (OBJECT, BACKGROUND))
    return near.square().sum(0) < far.square().sum(0)


def overlap(before: Tensor, after: Tensor) -> float:
    """Intersection over union of two masks."""
    union = (before | after).sum()
    return float((before & after).sum() / union) if union else 1.0


def streaks(picture: Tensor, mask: Tensor) -> float:
    """Energy outside the outline: mean squared distance from the background's colour over the object's distance.

    Args:
        picture: [1, 3, h, w].
        mask: of the object before; a border of 2 % of the side around it does not count.
    """
    border = max(1, round(0.02 * mask.shape[-1]))
    grown = F.max_pool2d(mask[None, None].float(), 2 * border + 1, 1, border)[0, 0] > 0
    background, colour = torch.tensor(BACKGROUND), torch.tensor(OBJECT)
    distance = (picture[0] - background[:, None, None]).square().sum(0)
    return float(distance[~grown].mean() / (colour - background).square().sum())


def _shapes(content: str, style: str, size: int) -> Pair:
    mask = shape(content, size)

    def measure(found: Tensor) -> dict[str, float]:
        return {"iou": overlap(mask, recognised(found)), "streaks": streaks(found, mask)}

    return Pair(f"{content}-as-{style}", painted(mask), painted(shape(style, size)), True, measure)


# --- a horse as a zebra (Figures 10 and 13) ---------------------------------------------------------------------------


def _body(horse: Tensor) -> Tensor:
    """Where a brown animal stands on green: red well above green, [h, w] bool."""
    red, green, blue = horse[0]
    body = (red - green > 0.12) & (red > blue)
    if not body.any():
        raise StudyError("the picture of a horse has no brown pixels: its body is told from the grass by its colour")
    return body


def _grass(picture: Tensor, body: Tensor) -> float:
    """Share of the body that has become green: the mistake that the paper sees in Std."""
    red, green, blue = picture[0]
    return float(((green > red + 0.03) & (green > blue + 0.03))[body].float().mean())


# --- low to high resolution (Figure 12) -------------------------------------------------------------------------------


def _detail(name: str, photograph: Tensor, factor: int) -> Pair:
    """A photograph's right half, blurred, in the style of its left half: detail of the same kind, not the answer."""
    half = photograph.shape[3] // 2
    style, reference = photograph[..., :half], photograph[..., -half:]
    height, width = reference.shape[2:]
    if factor > min(height, width):
        raise StudyError(f"the half of {name} has {width} × {height} pixels: too small for a factor of {factor}")
    small = F.interpolate(reference, (height // factor, width // factor), mode="area")
    low = F.interpolate(small, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)

    def measure(found: Tensor) -> dict[str, float]:
        return against(found, reference) | {f"low_{k}": v for k, v in against(low, reference).items()}

    return Pair(name, low, style, False, measure, reference)


def against(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Error against a reference: peak signal-to-noise ratio in dB, and 1 - SSIM."""
    mse = (found - reference).square().mean()
    similarity = structural_similarity_index_measure(found, reference, data_range=1.0)
    assert isinstance(similarity, Tensor)
    return {"psnr": float(-10 * mse.log10()), "dssim": float(1 - similarity)}
