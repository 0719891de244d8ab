"""Gains per unit and noise on I_r, against the MLP's reverse pass written by hand."""

import pytest
import torch
from torch import Tensor

import racecar
from racecar.study.coarse_to_fine import remedies
from racecar.study.coarse_to_fine.networks import SHAPES, Classifier


def made(kind: str) -> tuple[Classifier, Tensor]:
    channels, size = (1, 14) if kind == "mlp" else (3, 32)
    model = Classifier(kind, 2, channels=channels, size=size, width=4, seed=0)  # type: ignore[arg-type]
    return model, torch.rand(8, channels, size, size, generator=torch.Generator().manual_seed(0))


def by_hand(model: Classifier, x: Tensor, gains: list[Tensor], noise: Tensor | float = 0.0) -> Tensor:
    """Eq. 1 over three layers, each unit's estimate times its gain before the transposed weights."""
    layers = [model.body.fc1, model.body.fc2, model.body.fc3]
    forward = [x.flatten(1)]
    for layer in layers:
        forward.append(torch.relu(torch.nn.functional.linear(forward[-1], layer.weight, layer.bias)))
    estimate, expected = forward[3] + noise, torch.zeros(())
    for number in (2, 1, 0):
        estimate = (estimate * gains[number] - layers[number].bias) @ layers[number].weight
        estimate = torch.relu(estimate) if number else estimate
        expected = expected + 0.5 * (forward[number] - estimate).square().mean()
    return expected


def test_a_gain_multiplies_its_unit_in_the_reverse_pass_and_is_trained() -> None:
    model, x = made("mlp")
    plain = model(x)
    remedies.add_gains(model.body)
    gains = [layer.gain for layer in (model.body.fc1, model.body.fc2, model.body.fc3)]
    rr = racecar.Racecar(model, x, layers=3, start=SHAPES["mlp"].start)
    with torch.no_grad():
        for gain in gains:
            gain.uniform_(0.5, 2.0)
    output, penalty = rr(x)
    torch.testing.assert_close(output, plain)
    expected = by_hand(model, x, gains)
    torch.testing.assert_close(penalty, expected)
    found = torch.autograd.grad(penalty, [*gains, model.body.fc1.weight])
    torch.testing.assert_close(found, torch.autograd.grad(expected, [*gains, model.body.fc1.weight]))


def test_noise_on_the_start_changes_the_reverse_pass_alone() -> None:
    model, x = made("mlp")
    plain = model(x)
    remedies.add_noise(model.body.relu3, 0.5)
    rr = racecar.Racecar(model, x, layers=3, start=SHAPES["mlp"].start)
    torch.manual_seed(5)
    output, penalty = rr(x)
    torch.testing.assert_close(output, plain)
    torch.manual_seed(5)
    last = model.body(x).detach()
    noise = 0.5 * last.std() * torch.randn_like(last)
    torch.testing.assert_close(penalty, by_hand(model, x, [torch.ones(1)] * 3, noise))
    assert rr(x)[1] != penalty, "it is drawn anew at every call"


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_what_is_left_is_the_plain_network(kind: str) -> None:
    model, x = made(kind)
    names, expected = list(model.state_dict()), model.eval()(x)
    remedies.add_gains(model.body)
    remedies.add_noise(model.get_submodule(SHAPES[kind].start), 0.5)
    changed = racecar.Racecar(model, x, layers=SHAPES[kind].depth, start=SHAPES[kind].start)
    assert len(changed.layers) == SHAPES[kind].depth
    assert len(list(model.state_dict())) > len(names)
    remedies.remove(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    traced = torch.export.export(model, (x,)).graph_module.code
    assert "racecar_study" not in traced
