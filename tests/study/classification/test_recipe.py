"""Schedules against their closed forms, weight decay's reach, values that make no sense."""

import math

import pytest
import torch
from torch import nn

from racecar.study.classification.recipe import Recipe


def test_steps_divide_by_ten_after_each_milestone() -> None:
    recipe = Recipe(epochs=180, learning_rate=0.1, schedule="steps", milestones=(80, 120))  # Table 12
    rates = [recipe.rate(epoch * 7, 7) for epoch in (0, 79, 80, 119, 120, 179)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert recipe.rate(80 * 7 - 1, 7) == pytest.approx(0.1)


def test_cosine_rises_linearly_then_falls_to_zero() -> None:
    recipe = Recipe(epochs=10, learning_rate=0.4, schedule="cosine", warmup=0.2)
    rates = [recipe.rate(s, 10) for s in range(100)]
    assert rates[:20] == pytest.approx([0.4 * (s + 1) / 21 for s in range(20)])
    assert rates[20:] == pytest.approx([0.2 * (1 + math.cos(math.pi * s / 80)) for s in range(80)])
    assert Recipe(schedule="constant", learning_rate=0.3).rate(99, 10) == 0.3


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_weight_decay_leaves_biases_and_norms_alone(optimiser) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    net[2].weight.requires_grad_(False)
    groups = Recipe(optimiser=optimiser, weight_decay=0.1).make_optimiser([net]).param_groups
    decayed = {id(p) for g in groups for p in g["params"] if g["weight_decay"]}
    kept = {id(p) for g in groups for p in g["params"] if not g["weight_decay"]}
    assert decayed == {id(net[0].weight)}
    assert kept == {id(p) for p in (net[0].bias, *net[1].parameters(), net[2].bias)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"label_smoothing": math.nan}, "label_smoothing must not be negative"),
    ],
)
def test_values_that_make_no_sense(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe(**change)


def test_a_parameter_shared_by_modules_is_optimised_once() -> None:
    layer = nn.Linear(2, 2)
    groups = Recipe().make_optimiser([layer, nn.Sequential(layer)]).param_groups
    assert sum(len(g["params"]) for g in groups) == 2
    assert isinstance(layer.weight, torch.Tensor)
