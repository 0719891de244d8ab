"""Table 11's network against its description, the strong one's shape and start."""

import pytest
import torch
from torch import nn

import racecar
from racecar.study.cifar.experiment import Cifar
from racecar.study.cifar.network import initialise_strong, strong, table_11
from racecar.study.commands.study import preset


def test_table_11_has_13_convolutions_of_its_widths_and_three_normed_layers() -> None:
    net = table_11(width=4)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert [c.out_channels * 16 for c in convolutions] == widths
    assert all(c.bias is not None for c in convolutions)
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [256, 256, 10]
    assert sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in net.modules()) == 16
    pools = [n for n, _ in net.named_children() if n.startswith(("pool", "conv"))]
    assert [pools[i - 1] for i, n in enumerate(pools) if n.startswith("pool")] == ["conv2", "conv4", "conv7", "conv10"]
    output = net(torch.randn(4, 3, 32, 32))
    assert output.shape == (4, 10)
    assert (output >= 0).all()  # relu(BN(FC(10)))


@pytest.mark.parametrize(("make", "depth"), [(table_11, 13), (strong, 7)])
def test_the_palindrome_covers_all_convolutions(make, depth) -> None:
    rr = racecar.Racecar(make(width=4), torch.randn(4, 3, 32, 32), weight=1e-7, reduction="sum")
    assert rr.layers == tuple(f"conv{i}" for i in range(1, depth + 1))


def test_strong_begins_as_the_identity_on_the_channels_it_takes_over() -> None:
    net = strong(width=8)
    initialise_strong(net, 0)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(net.conv2(x)[:, :8], x)
    assert not torch.equal(net.conv1.weight, strong(width=8).conv1.weight)


@pytest.mark.parametrize("recipe", ["paper", "strong"])
@pytest.mark.parametrize("name", ["paper", "small", "quick"])
def test_presets_name_what_there_is(name, recipe) -> None:
    config = preset("cifar", "--preset", name, "--recipe", recipe)
    assert config.runs()
    model = Cifar().network(config, 3, 32, 10, 0)
    assert any(n.startswith(f"{Cifar.head}.") for n in model.state_dict())


def test_the_paper_preset_is_table_12() -> None:
    config = preset("cifar")
    recipes = {"a": config.a, "aa": config.aa, "ab": config.ab, "b": config.b}
    assert {p: r.epochs for p, r in recipes.items()} == {"a": 180, "aa": 180, "ab": 50, "b": 50}
    assert {r.batch_size for r in recipes.values()} == {200}
    assert (config.a.milestones, config.a.learning_rate, config.weight) == ((80, 120), 0.1, 1e-7)
