"""Equations 3 and 4 against loops over their indices."""

import itertools

import pytest
import torch

from racecar.study.stylize.losses import content_loss, gram, style_energy, style_loss

GENERATOR = torch.Generator().manual_seed(0)


def features(filters: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(1, filters, height, width, generator=GENERATOR, dtype=torch.float64)


def equation_3(p: torch.Tensor, g: torch.Tensor) -> float:
    _, m, h, w = p.shape
    places = itertools.product(range(m), range(h), range(w))
    return 0.5 * sum(float(p[0, i, y, x] - g[0, i, y, x]) ** 2 for i, y, x in places)


def equation_4(a: torch.Tensor, g: torch.Tensor) -> float:
    """E_t as printed, with N filters at M positions."""
    filters, positions = a.shape[1], a.shape[2] * a.shape[3]
    left, right = a.reshape(filters, positions), g.reshape(filters, positions)
    total = 0.0
    for m, n in itertools.product(range(filters), range(filters)):
        of_a = sum(float(left[m, f] * left[n, f]) for f in range(positions))
        of_g = sum(float(right[m, f] * right[n, f]) for f in range(positions))
        total += (of_g - of_a) ** 2
    return total / (4 * filters**2 * positions**2)


def test_content_is_equation_3() -> None:
    p, g = features(3, 4, 5), features(3, 4, 5)
    assert float(content_loss(p, g)) == pytest.approx(equation_3(p, g), rel=1e-12)


def test_style_is_equation_4() -> None:
    layers = {"t0": (3, 4, 5), "t1": (6, 2, 3)}
    a = {t: features(*s) for t, s in layers.items()}
    g = {t: features(*s) for t, s in layers.items()}
    weights = {"t0": 0.3, "t1": 2.0}
    found = style_loss({t: gram(f) for t, f in a.items()}, g, weights)
    assert float(found) == pytest.approx(sum(w * equation_4(a[t], g[t]) for t, w in weights.items()), rel=1e-12)


def test_the_size_of_a_picture_does_not_matter_to_its_style() -> None:
    small = features(4, 3, 5)
    tiled = small.repeat(1, 1, 2, 3)
    assert float(style_energy(gram(small), gram(tiled))) == pytest.approx(0, abs=1e-20)
