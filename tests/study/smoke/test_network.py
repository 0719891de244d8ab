"""Table 13's shapes and weights; what an auto-encoder takes over."""

from itertools import pairwise

import pytest
import torch

import racecar
from racecar.study.smoke.network import AutoEncoder, discriminator, encoder, generator


def convolution(inputs: int, outputs: int) -> int:
    return 25 * inputs * outputs + outputs


def test_the_generator_is_table_13s() -> None:
    net = generator()
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 1, 64, 64)
    widths = [1, 64, 128, 128, 64, 32, 1]
    count = sum(convolution(a, b) for a, b in pairwise(widths))
    assert sum(p.numel() for p in net.parameters()) == count == 873_217


def test_the_discriminator_is_table_13s() -> None:
    net = discriminator()
    assert net(torch.zeros(2, 2, 64, 64)).shape == (2, 1)
    widths = [2, 32, 64, 128, 256]
    count = sum(convolution(a, b) + 2 * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in net.parameters()) == count + 256 * 64 * 64 + 1


def test_the_reverse_pass_runs_as_in_table_13() -> None:
    rr = racecar.Racecar(generator(4), torch.rand(2, 1, 16, 16), layers=6, input_range="paper")
    shapes = {name: tuple(pair[1].shape[1:]) for name, pair in rr.reconstruct(torch.rand(2, 1, 16, 16)).items()}
    assert shapes == {
        "conv1": (1, 16, 16),
        "conv2": (4, 32, 32),
        "conv3": (8, 64, 64),
        "conv4": (8, 64, 64),
        "conv5": (4, 64, 64),
        "conv6": (2, 64, 64),
    }


@pytest.mark.parametrize(("channels", "reused"), [(1, 6), (3, 5)])
def test_an_auto_encoder_reuses_six_layers_for_b1_and_five_for_b2(channels, reused) -> None:
    source, model = generator(4), AutoEncoder(4, channels)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    layers = model.reuse(source.state_dict())
    assert layers == [f"conv{i + 1}" for i in range(reused)]
    for name, value in model.state_dict().items():
        part, _, own = name.partition(".")
        taken = part == "decoder" and own.partition(".")[0] in layers
        assert torch.equal(value, source.state_dict()[own] if taken else before[name])
    x = torch.rand(2, channels, 24, 32)
    assert model(x).shape == x.shape
    assert model.encoder(x).shape == (2, 1, 6, 8)


def test_encoder_and_generator_mirror_each_other() -> None:
    there = [m.weight.shape for m in encoder(8, 3) if isinstance(m, torch.nn.Conv2d)]
    back = [m.weight.shape for m in generator(8, 3) if isinstance(m, torch.nn.Conv2d)]
    assert [(b, a) for a, b, *_ in there] == [(a, b) for a, b, *_ in reversed(back)]
