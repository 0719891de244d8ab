"""The untied decoder: the palindrome's shape with weights of its own, against a reverse pass written by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import racecar


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).double()


def perturbed(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return other


X = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(model: nn.Sequential, decoder: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Forward with the model's weights, back with the decoder's."""
    conv1, bn1, _, _, conv2, *_ = model
    pooled = F.max_pool2d(F.relu(F.batch_norm(conv1(x), None, None, bn1.weight, bn1.bias, True)), 2)
    start = F.relu(conv2(pooled))
    back1, norm1, _, _, back2, *_ = decoder
    estimate = F.conv_transpose2d(start - back2.bias.view(-1, 1, 1), back2.weight, None, 2, 1, 1)
    # In range: conv1's norm and activation lie before the pooling.
    estimate = F.relu(F.batch_norm(estimate, None, None, norm1.weight, norm1.bias, True))
    distance2 = (pooled - estimate).square().mean() / 2
    up = F.interpolate(estimate, scale_factor=2)
    image = F.conv_transpose2d(up - back1.bias.view(-1, 1, 1), back1.weight, None, 1, 1)
    return (x - image).square().mean() / 2 + distance2


def test_the_reverse_pass_uses_the_decoders_weights_and_only_it() -> None:
    model = net()
    decoder = perturbed(model)
    rr = racecar.Racecar(model, X, decoder=decoder)
    output, penalty = rr(X)
    expected = by_hand(model, decoder, X)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(output, net()(X))

    ours = torch.autograd.grad(penalty, [*model[:5].parameters(), *decoder[:5].parameters()])
    theirs = torch.autograd.grad(expected, [*model[:5].parameters(), *decoder[:5].parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_with_equal_weights_it_is_racecar_and_the_gradients_add_up_to_its() -> None:
    model = net()
    decoder = copy.deepcopy(model)
    tied = racecar.Racecar(model, X)(X)[1]
    untied = racecar.Racecar(model, X, decoder=decoder)(X)[1]
    torch.testing.assert_close(tied, untied)
    weights = list(model[:5].parameters())
    expected = torch.autograd.grad(tied, weights)
    found = torch.autograd.grad(untied, [*weights, *decoder[:5].parameters()])
    for a, b, c in zip(expected, found[: len(weights)], found[len(weights) :], strict=True):
        torch.testing.assert_close(a, b + c)


def test_its_parameters_are_the_wrappers_and_the_models_state_is_its_own() -> None:
    model = net()
    rr = racecar.Racecar(model, X, decoder=perturbed(model))
    assert len(list(rr.parameters())) == 2 * len(list(model.parameters()))
    assert model.state_dict().keys() == net().state_dict().keys()
    rr.eval()
    assert set(rr.reconstruct(X)) == {"0", "4"}


def test_a_decoder_that_does_not_fit_is_refused() -> None:
    model = net()
    for decoder, said in (
        (model, "the model itself"),
        (nn.Linear(2, 2), "'0.bias', '0.weight'"),
        ("a name", "must be a torch.nn.Module, not str"),
    ):
        with pytest.raises(racecar.ArgumentError, match=said):
            racecar.Racecar(model, X, decoder=decoder)  # type: ignore[arg-type]


def test_weights_that_are_computed_are_refused_instead_of_staying_tied() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(racecar.ArgumentError, match="computed from parameters"):
        racecar.Racecar(model, torch.randn(3, 4), decoder=copy.deepcopy(model))
