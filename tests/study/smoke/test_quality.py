"""L2, PSNR, SSIM and the regeneration's numbers against direct evaluation."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from racecar.study.smoke.quality import constants, quality, resemblance


def test_l2_is_half_the_sum_over_a_picture_and_the_mean_over_pictures() -> None:
    output, target = torch.rand(3, 2, 16, 12), torch.rand(3, 2, 16, 12)
    found = quality(output, target)
    by_hand = np.mean([0.5 * np.sum((a - b) ** 2) for a, b in zip(output.numpy(), target.numpy(), strict=True)])
    assert found["l2"] == pytest.approx(by_hand, rel=1e-5)
    assert found["mse"] == pytest.approx(float(((output - target) ** 2).mean()), rel=1e-5)
    assert found["psnr"] == pytest.approx(-10 * math.log10(found["mse"]), abs=1e-3)


def test_dssim_agrees_with_a_direct_evaluation_of_wang_et_al() -> None:
    generator = np.random.default_rng(0)
    a = gaussian_filter(generator.random((40, 40)), 1.0)
    b = np.clip(a + 0.1 * generator.standard_normal((40, 40)), 0, 1)

    def mean(x):  # the 11 × 11 window of the publication, σ = 1.5; mirrored at the border
        return gaussian_filter(x, 1.5, truncate=3.4, mode="mirror")

    c1, c2 = 0.01**2, 0.03**2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    ssim = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    expected = 1 - ssim.mean()
    pictures = (torch.tensor(x, dtype=torch.float32)[None, None] for x in (b, a))
    assert quality(*pictures)["dssim"] == pytest.approx(expected, abs=1e-3)


def test_the_same_pictures_have_no_distance() -> None:
    picture = torch.rand(2, 1, 16, 16)
    found = quality(picture, picture)
    assert (found["l2"], found["psnr"]) == (0, 120)
    assert found["dssim"] == pytest.approx(0, abs=1e-5)


def test_constants_are_the_loss_of_black_and_of_the_mean_colour() -> None:
    target = torch.rand(4, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1)
    found = constants(target)
    assert found["black"] == pytest.approx(quality(torch.zeros_like(target), target)["l2"], rel=1e-4)
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert found["grey"] == pytest.approx(quality(mean, target)["l2"], rel=1e-4)
    assert found["grey"] < found["black"]


def test_resemblance() -> None:
    original = torch.rand(5, 1, 16, 16)
    assert resemblance(original, original) == pytest.approx({"error": 0, "correlation": 1, "psnr": 120}, abs=1e-5)
    constant = torch.full_like(original, float(original.mean()))
    found = resemblance(constant, original)
    assert found["error"] == pytest.approx(1, abs=2e-3)
    assert found["correlation"] == pytest.approx(0, abs=1e-4)
    wild = resemblance(torch.full_like(original, math.inf), original)
    assert wild["error"] == 1e30
    assert math.isfinite(wild["psnr"])
