"""The numbers of the comparisons on pictures whose answer is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio

from racecar.study.core.errors import StudyError
from racecar.study.stylize.comparisons import (
    BACKGROUND,
    COMPARISONS,
    FILES,
    OBJECT,
    against,
    overlap,
    painted,
    pairs,
    recognised,
    shape,
    streaks,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for name in dict.fromkeys(sum(FILES.values(), ())):
        pixels = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        if name == "horse":
            pixels[:] = (90, 160, 60)  # grass
            pixels[10:30, 20:50] = (160, 90, 40)  # a brown body
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("name", ["disc", "square", "triangle"])
def test_a_shape_is_recognised_in_its_own_picture(name) -> None:
    mask = shape(name, 64)
    assert 0.1 < float(mask.float().mean()) < 0.3
    assert torch.equal(recognised(painted(mask)), mask)
    assert overlap(mask, recognised(painted(mask))) == 1
    assert streaks(painted(mask), mask) == pytest.approx(0, abs=1e-12)


def test_the_overlap_falls_as_a_shape_moves() -> None:
    mask = shape("square", 64)
    side = int(mask[32].sum())
    for shift in (0, 3, 9):
        found = overlap(mask, mask.roll(shift, 1))
        assert found == pytest.approx((side - shift) / (side + shift))
    empty = torch.zeros_like(mask)
    assert overlap(mask, empty) == 0
    assert overlap(empty, empty) == 1


def test_streaks_are_energy_outside_the_outline() -> None:
    mask = shape("disc", 100)
    picture = painted(mask)
    far = torch.zeros(100, 100, dtype=torch.bool)
    far[:5] = True
    picture[0, :, far] = torch.tensor(OBJECT)[:, None]
    outside = 100 * 100 - float(torch.nn.functional.max_pool2d(mask[None, None].float(), 5, 1, 2).sum())
    assert streaks(picture, mask) == pytest.approx(500 / outside, rel=1e-5)
    inside = painted(mask)
    inside[0, :, mask] = torch.tensor(BACKGROUND)[:, None]  # what happens within does not count
    assert streaks(inside, mask) == pytest.approx(0, abs=1e-12)


def test_the_body_is_the_brown_animal_and_grass_is_green(pictures) -> None:
    (pair,) = pairs("horse", pictures, 64, 4)
    assert pair.measure(pair.content) == {"grass": 0.0}
    half = pair.content.clone()
    half[0, :, 10:30, 20:35] = torch.tensor([0.3, 0.7, 0.2])[:, None, None]
    assert pair.measure(half)["grass"] == pytest.approx(0.5)


def test_detail_is_measured_against_the_half_that_was_not_shown(pictures) -> None:
    for pair in pairs("detail", pictures, 32, 4):
        assert pair.reference is not None
        assert pair.content.shape == pair.reference.shape == (1, 3, 48, 32)
        assert not torch.equal(pair.style, pair.reference)
        found = pair.measure(pair.content)
        assert found["psnr"] == pytest.approx(found["low_psnr"])
        expected = peak_signal_noise_ratio(pair.content, pair.reference, data_range=1.0)
        assert found["psnr"] == pytest.approx(float(expected), rel=1e-5)
        small = torch.nn.functional.avg_pool2d(pair.reference, 4)
        blurred = torch.nn.functional.avg_pool2d(pair.content, 4)
        assert float((small - blurred).abs().mean()) < 0.05  # the low resolution, and nothing else
    same = against(pair.reference, pair.reference)
    assert math.isinf(same["psnr"])
    assert same["dssim"] == pytest.approx(0, abs=1e-5)


def test_every_comparison_has_its_pictures(pictures) -> None:
    counts = {c: [p.name for p in pairs(c, pictures, 32, 4)] for c in COMPARISONS}
    assert counts == {
        "shapes": ["disc-as-square", "square-as-triangle", "triangle-as-disc"],
        "building": ["tubingen", "hoovertowernight"],
        "horse": ["horse"],
        "detail": ["golden_gate", "tubingen"],
    }
    assert all(p.style_only for p in pairs("shapes", None, 32, 4))


@pytest.mark.parametrize("comparison", ["building", "horse", "detail"])
def test_missing_pictures_are_named(comparison, tmp_path) -> None:
    with pytest.raises(StudyError, match="--pictures"):
        pairs(comparison, None, 32, 4)
    with pytest.raises(StudyError, match=f"has no picture {FILES[comparison][0]}: it needs tubingen"):
        pairs(comparison, tmp_path, 32, 4)
