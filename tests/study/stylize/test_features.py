"""Gatys' names, features at layers, and networks or pictures that do not fit."""

import pytest
import torch
from torch import nn

from racecar.study.cifar.network import strong
from racecar.study.core.errors import StudyError
from racecar.study.stylize.features import Extractor, gatys_names
from racecar.study.vgg.network import VGG19, initialise


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    model = VGG19(4, 4, 1)
    initialise(model, 0)
    return model


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(inplace=True)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        return h + self.body(h)


def test_names_are_gatys_and_mean_the_activation_after_the_convolution(vgg) -> None:
    names = gatys_names(vgg)
    counts = {"conv1": 2, "conv2": 2, "conv3": 4, "conv4": 4, "conv5": 4}
    assert list(names) == [f"{b}_{i}" for b, n in counts.items() for i in range(1, n + 1)]
    x = torch.randn(1, 3, 32, 48)
    found = Extractor(vgg, ["conv3_1", "conv1_1"])(x)
    torch.testing.assert_close(found["conv1_1"], vgg.features[:2](x))
    torch.testing.assert_close(found["conv3_1"], vgg.features[:12](x))


def test_other_networks_go_by_their_modules_names() -> None:
    model = Residual().eval()
    assert gatys_names(model) == {}
    x = torch.randn(1, 3, 16, 16)
    found = Extractor(model, ["stem.1", "body"])(x)
    torch.testing.assert_close(found["body"], model.body(model.stem(x)))
    torch.testing.assert_close(found["stem.1"], model.stem[:2](x))
    assert list(gatys_names(strong(10, 4)))[:3] == ["conv1_1", "conv1_2", "conv2_1"]


def test_nothing_runs_beyond_the_deepest_layer(vgg) -> None:
    """So a picture need not fit the rest of the network."""
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(RuntimeError):
        vgg(x)
    assert Extractor(vgg, ["conv2_2"])(x)["conv2_2"].shape == (1, 8, 4, 4)


def test_the_network_stays_as_it_is(vgg) -> None:
    vgg.train()
    before = [p.requires_grad for p in vgg.parameters()]
    Extractor(vgg, ["conv1_1"], "avg")
    assert vgg.training
    assert [p.requires_grad for p in vgg.parameters()] == before
    assert not any(m._forward_hooks for m in vgg.modules())
    assert sum(isinstance(m, nn.MaxPool2d) for m in vgg.modules()) == 5


def test_average_pooling_takes_the_place_of_max_pooling(vgg) -> None:
    x = torch.randn(1, 3, 32, 32)
    found = Extractor(vgg, ["conv2_1"], "avg")(x)["conv2_1"]
    torch.testing.assert_close(found, vgg.features[5:7](nn.functional.avg_pool2d(vgg.features[:4](x), 2)))


def test_what_follows_in_place_does_not_change_a_feature() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(Extractor(model, ["0", "2"])(x)["0"], model[0](x))


def test_a_pooling_that_was_replaced_can_be_named(vgg) -> None:
    x = torch.randn(1, 3, 32, 32)
    found = Extractor(vgg, ["features.4"], "avg")(x)["features.4"]
    torch.testing.assert_close(found, nn.functional.avg_pool2d(vgg.features[:4](x), 2))


@pytest.mark.parametrize(
    ("make", "layers", "message"),
    [
        (lambda: VGG19(4, 4, 1), ["conv1_3"], r"no layer conv1_3; it has conv1_1, conv1_2, conv2_1"),
        (Residual, ["conv1_1"], r"no layer conv1_1; it has stem\.0, stem\.1"),
    ],
    ids=["vgg", "another"],
)
def test_a_missing_layer_is_named_with_those_there_are(make, layers, message) -> None:
    with pytest.raises(StudyError, match=message):
        Extractor(make(), layers)


@pytest.mark.parametrize(("size", "layer", "smallest"), [(15, "conv5_1", 16), (3, "conv3_4", 4)])
def test_a_picture_too_small_for_a_layer_is_refused(vgg, size, layer, smallest) -> None:
    message = rf"{size} × {size} pixels is too small for {layer}: both sides must be at least {smallest}"
    with pytest.raises(StudyError, match=message):
        Extractor(vgg, ["conv1_1", layer])(torch.randn(1, 3, size, size))
    Extractor(vgg, ["conv1_1", layer])(torch.randn(1, 3, smallest, smallest))
