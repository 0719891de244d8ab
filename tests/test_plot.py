"""``rr.plot`` draws what ``rr.reconstruct`` gives, and ``print(rr)`` is one line."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

import racecar
from racecar import ArgumentError, Racecar

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure


def images() -> tuple[Racecar, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 8), nn.ReLU(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return Racecar(net, torch.rand(5, 3, 8, 8), layers="all"), torch.rand(5, 3, 8, 8)


def panels(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_pairs_distances_and_singular_values_are_those_of_the_network() -> None:
    rr, x = images()
    figure = rr.plot(x)
    *pairs, distances, spectrum = panels(figure)
    assert [axes.get_title().split("\n")[0] for axes in pairs[:3]] == ["0", "4", "6"]
    assert len(pairs) == 6
    expected = [float(((a - b).norm() / a.norm()).detach()) for a, b in rr.reconstruct(x).values()]
    assert distances.lines[0].get_ydata() == pytest.approx(expected, rel=1e-5)
    weight = rr.model.get_submodule("0").weight.detach().flatten(1)
    assert spectrum.lines[0].get_ydata() == pytest.approx(torch.linalg.svdvals(weight).numpy(), rel=1e-4)
    first = pairs[0].images[0].get_array()
    shown = (x[0] - x[0].min()) / (x[0].max() - x[0].min())
    torch.testing.assert_close(torch.as_tensor(first), shown.permute(1, 2, 0), rtol=1e-4, atol=1e-4)


def test_another_layer_and_one_that_is_not_there() -> None:
    rr, x = images()
    values = panels(rr.plot(x, layer="6"))[-1].lines[0].get_ydata()
    assert len(values) == 4
    with pytest.raises(ArgumentError, match="'nowhere' is not among the compared layers '0', '4', '6'"):
        rr.plot(x, layer="nowhere")


def test_many_layers_are_thinned_out_and_tokens_have_a_row_each() -> None:
    net = nn.Sequential(*(layer for _ in range(9) for layer in (nn.Linear(6, 6), nn.Tanh())))
    rr = Racecar(net, torch.randn(4, 3, 6))
    figure = rr.plot(torch.randn(4, 3, 6))
    assert len(panels(figure)) == 2 * 6 + 2
    assert "(6 of 9)" in figure.subfigs[0].get_suptitle()
    assert panels(figure)[0].images[0].get_array().shape == (3, 6)


def test_it_changes_nothing_and_tensorboard_takes_it(tmp_path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    rr, x = images()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in rr.state_dict().items()}
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_figure("inside", rr.plot(x))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in rr.state_dict().items())
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) > 5000


def test_without_matplotlib_it_says_what_to_install(monkeypatch) -> None:
    rr, x = images()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        rr.plot(x)


def test_print_is_one_line() -> None:
    rr, _ = images()
    assert repr(rr) == "Racecar(Sequential, 3 layers compared: 0, 4, 6; reduction='mean')"
    deep = racecar.Racecar(nn.Sequential(*(nn.Linear(3, 3) for _ in range(8))), torch.ones(2, 3), every=2)
    assert repr(deep) == "Racecar(Sequential, 8 layers compared: 0, 1, …, 7; reduction='mean', every=2)"
