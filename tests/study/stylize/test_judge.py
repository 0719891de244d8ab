"""The independent network's distances against the same sums written out."""

import pytest
import torch
from torch import nn

from racecar.study.cifar.network import strong
from racecar.study.classification.batches import Normalisation
from racecar.study.stylize.judge import Judge

UNIT = Normalisation.unit(3)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def test_distance_is_of_unit_features_averaged_over_positions_and_layers(network) -> None:
    a, b = torch.rand(2, 1, 3, 12, 10)
    expected = []
    for end in (2, 7):  # the last convolution of every block, with its activation
        x, y = (network[:end](t)[0].flatten(1).detach() for t in (a, b))
        x, y = (t / (t.norm(dim=0) + 1e-10) for t in (x, y))
        expected.append(float(((x - y) ** 2).sum(0).mean()))
    judge = Judge(network, UNIT)
    assert judge.distance(a, b) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert judge.distance(a, a) == 0
    assert judge.distance(a, b) == pytest.approx(judge.distance(b, a))


def test_style_does_not_depend_on_positions(network) -> None:
    a = torch.rand(1, 3, 16, 16)
    judge = Judge(network, UNIT)
    assert judge.style(a, a) == pytest.approx(0, abs=1e-10)
    assert judge.style(a, a.roll(4, 3)) < 0.2 * judge.style(a, torch.rand(1, 3, 16, 16) ** 3)


def test_any_network_with_convolutions_judges() -> None:
    judge = Judge(strong(10, 4).eval(), UNIT)
    assert len(judge.extract.layers) == 4
    assert judge.distance(*torch.rand(2, 1, 3, 32, 32)) > 0
    with pytest.raises(ValueError, match="has no convolution"):
        Judge(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), UNIT)
