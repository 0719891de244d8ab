"""Members of an ensemble end where they would end alone; the flat program gives autograd's gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import racecar


def net(seed: int, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.LayerNorm(7)] if norm else []
    return nn.Sequential(
        nn.Linear(12, 7), *middle, nn.Tanh(), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh()
    ).double()


def conv_net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip


CASES = {
    "all with racecar": (net, (12,), [[0.1, 0.2, 0.3], [0.05, 0, 0], [0.3, 0.3, 0.3]]),
    "racecar first, then plain": (net, (12,), [0.1, 0.0, 0.0]),
    "plain in the middle": (net, (12,), [0.1, 0.0, 0.2]),
    "all plain": (net, (12,), [0.0, 0.0, 0.0]),
    "layer norm": (lambda s: net(s, norm=True), (12,), [0.2, 0.1, 0.0]),
    "convolutions": (conv_net, (2, 8, 8), [0.1, 0.2, 0.0]),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_same_weights_as_training_each_alone(case: str, fused: bool) -> None:
    make, shape, weights = CASES[case]
    members, steps = len(weights), 12
    example = torch.zeros(2, *shape, dtype=torch.float64)
    torch.manual_seed(99)
    # Two batch sizes, as in an epoch with a remainder.
    batches = [
        (torch.randn(members, b, *shape, dtype=torch.float64), torch.randint(0, 3, (members, b)))
        for b in (6, 6, 4) * (steps // 3)
    ]

    alone = []
    for i, weight in enumerate(weights):
        model = make(i)
        rr = racecar.Racecar(model, example, weight=weight, reduction="sum")
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for x, y in batches:
            adam.zero_grad()
            output, penalty = rr(x[i])
            (F.cross_entropy(output, y[i]) + penalty).backward()
            adam.step()
        alone.append(model.state_dict())

    ensemble = racecar.Ensemble([make(i) for i in range(members)], example, weights=weights, reduction="sum")
    adam = torch.optim.Adam(ensemble.parameters(), lr=1e-2, fused=fused)
    program = ensemble.gradients(F.cross_entropy)
    for x, y in batches:
        program(x, y)
        adam.step()

    for i in range(members):
        for name, value in ensemble.state_dict_of(i).items():
            torch.testing.assert_close(value, alone[i][name], rtol=1e-8, atol=1e-10)


def test_calling_the_ensemble_gives_outputs_and_penalties_of_the_members() -> None:
    models = [net(i) for i in range(3)]
    ensemble = racecar.Ensemble(models, torch.zeros(2, 12).double(), weights=[0.1, 0.0, 0.3])
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    outputs, penalties = ensemble(x)
    for i, weight in enumerate([0.1, 0.0, 0.3]):
        output, penalty = racecar.Racecar(models[i], x[i], weight=weight)(x[i])
        torch.testing.assert_close(outputs[i], output)
        torch.testing.assert_close(penalties[i], penalty)


class Half(nn.Module):
    """A layer of which only some outputs go on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 2:5]


def test_what_is_unknown_in_the_reverse_pass_is_so_in_every_member() -> None:
    def half(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 7), nn.Tanh(), Half(), nn.Linear(3, 2)).double()

    models, x = [half(i) for i in range(2)], torch.randn(2, 5, 12, dtype=torch.float64)
    _, penalties = racecar.Ensemble(models, x[0], weights=[0.1, 0.3])(x)
    for i, weight in enumerate([0.1, 0.3]):
        torch.testing.assert_close(penalties[i], racecar.Racecar(models[i], x[i], weight=weight)(x[i])[1])


def test_compiled_without_graph_breaks() -> None:
    ensemble = racecar.Ensemble([net(i) for i in range(2)], torch.zeros(2, 12).double(), weights=[0.1, 0.2])
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    compiled = torch.compile(ensemble, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(x), ensemble(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_activations_are_the_layers_inputs() -> None:
    models = [net(i) for i in range(2)]
    ensemble = racecar.Ensemble(models, torch.zeros(2, 12).double())
    x = torch.randn(9, 12, dtype=torch.float64)
    outputs, inputs = ensemble.activations(x.expand(2, -1, -1))
    for i, model in enumerate(models):
        torch.testing.assert_close(outputs[i], model(x))
        for value, depth in zip(inputs, (0, 2, 4), strict=True):
            torch.testing.assert_close(value[i], model[:depth](x))


def test_single_precision_stays_close_in_spite_of_the_cheaper_tanh() -> None:
    model = net(0).float()
    x, y = torch.randn(1, 64, 12), torch.randint(0, 3, (1, 64))
    ensemble = racecar.Ensemble([model], x[0], weights=[0.1])
    ensemble.gradients(F.cross_entropy)(x, y)
    output, penalty = racecar.Racecar(model, x[0], weight=0.1)(x[0])
    (F.cross_entropy(output, y[0]) + penalty).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ensemble.stacked[name].grad[0], parameter.grad, rtol=1e-4, atol=1e-6)


def test_regulariser_of_the_stacked_weights() -> None:
    models = [net(i) for i in range(3)]
    ensemble = racecar.Ensemble(models, torch.zeros(2, 12).double())
    beta = torch.tensor([0.0, 1.0, 2.0]).double()
    program = ensemble.gradients(
        lambda output, y: 0.0 * output.sum(), lambda w, power: beta * w["0.weight"].pow(power).sum((1, 2))
    )
    program(torch.zeros(3, 4, 12).double(), torch.zeros(3, 4), extras=(torch.tensor(2.0).double(),))
    for i in range(3):
        torch.testing.assert_close(ensemble.stacked["0.weight"].grad[i], 2 * beta[i] * models[i][0].weight.detach())


@pytest.mark.parametrize(
    ("models", "arguments", "words"),
    [
        (lambda: [], {}, "at least one model"),
        (lambda: [net(0), nn.Sequential(nn.Linear(12, 2)).double()], {}, "model 1 differs from model 0"),
        (lambda: [net(0), net(1)], {"weights": [0.1]}, "1 entries for 2 models"),
        (lambda: [net(0), net(1)], {"weights": [0.1, -1.0]}, "member 1: weight must be finite and not negative"),
        (lambda: [nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3)).double()] * 2, {}, "keeps running statistics"),
    ],
)
def test_wrong_arguments(models, arguments, words) -> None:
    with pytest.raises(racecar.ArgumentError, match=words):
        racecar.Ensemble(models(), torch.zeros(2, 12).double(), **arguments)
