"""Colours of models: told apart by the colour-blind, legible on white and on dark paper, deeper for more layers."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from racecar.study.core import methods
from racecar.study.report.models import SCRATCH, color_of

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Oklab (Ottosson 2020).
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
OF_A_FIGURE = ("Std", "Ort", "RR1", "RR6", "Dec1", "Dec6", "Std_B")


def linear(color: str) -> NDArray[np.float64]:
    s = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def distance(a: str, b: str, sight: str) -> float:
    """In Oklab; 0.02 is just seen."""
    first, second = (LAB @ np.cbrt(CONES @ np.clip(SIGHT[sight] @ linear(c), 0, 1)) for c in (a, b))
    return float(np.linalg.norm(first - second))


def contrast(a: str, b: str) -> float:
    """WCAG's."""
    low, high = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sight", SIGHT)
def test_the_colours_of_one_figure_are_told_apart(sight: str) -> None:
    for a, b in combinations(OF_A_FIGURE, 2):
        assert distance(color_of(a), color_of(b), sight) > 0.05, (a, b)


def test_two_methods_have_two_colours_or_two_lines_for_anybody() -> None:
    for a, b in combinations(methods.registered(), 2):
        closest = min(distance(a.color, b.color, sight) for sight in SIGHT)
        assert closest > 0.04 or (a.line != b.line and closest > 0.02), (a.family, b.family)


def test_every_colour_is_seen_on_white_and_on_dark_paper() -> None:
    for color in [SCRATCH, *(m.color for m in methods.registered()), *map(color_of, OF_A_FIGURE)]:
        assert contrast(color, "#ffffff") > 2.5, color
        assert contrast(color, "#1b1e23") > 2.5, color


def test_a_model_has_its_variants_colour_and_more_layers_a_deeper_one() -> None:
    assert color_of("RR^6_AB") == color_of("RR^6_A") == color_of("RR6")
    assert contrast(color_of("RR^1"), "#ffffff") < contrast(color_of("RR^6"), "#ffffff")
    assert color_of("Std_B") == color_of("RR^6_B1") == SCRATCH
