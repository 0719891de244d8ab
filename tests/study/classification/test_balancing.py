"""λ from the first batches, against gradients by hand; resumed, it is what was found."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import racecar
from racecar.study.classification.balancing import BATCHES, balance
from racecar.study.classification.batches import Batches, InMemory, Normalisation
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.images.decoded import Images

UNIT = Normalisation.unit(1)
DRAW = torch.Generator().manual_seed(0)
IMAGES = Images(
    torch.randint(256, (83, 1, 8, 8), generator=DRAW, dtype=torch.uint8), torch.arange(83) % 3, tuple("abc")
)
RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=0.05, augmentation="crop")


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def net(dropout: float) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Dropout(dropout), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def trainer(model: nn.Module, reduction: str = "mean") -> Trainer:
    rr = racecar.Racecar(model, UNIT(IMAGES.pixels[:4]), layers=1, weight=1.0, reduction=reduction)
    data = InMemory(IMAGES, IMAGES, UNIT)
    return Trainer(Objective(model, rr), RECIPE, data, seed=2, accelerator=make_accelerator(), evaluations=1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_is_the_geometric_mean_over_the_first_batches(reduction) -> None:
    ours, theirs = trainer(net(0.0), reduction), net(0.0)
    before = {name: value.clone() for name, value in ours.objective.model.state_dict().items()}
    found = balance(ours, 0.3)
    for name, value in ours.objective.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert ours.step == 0

    rr = racecar.Racecar(theirs, UNIT(IMAGES.pixels[:4]), layers=1, weight=1.0, reduction=reduction)
    both = [p for name, p in theirs.named_parameters() if not name.startswith("6.")]
    logs = []
    for number, (x, y, _) in enumerate(Batches(IMAGES, 8, 2, UNIT, "crop").epoch(0)):
        output, penalty = rr(x)
        loss = F.cross_entropy(output, y)
        task, pull = (torch.autograd.grad(v, both, retain_graph=True, allow_unused=True) for v in (loss, penalty))
        trained = [i for i, g in enumerate(pull) if g is not None]
        task_norm, pull_norm = (math.sqrt(sum(g[i].square().sum().item() for i in trained)) for g in (task, pull))
        logs.append(math.log(0.3 * task_norm / pull_norm))
        if number == BATCHES - 1:
            break
    assert found == pytest.approx(math.exp(sum(logs) / BATCHES), rel=1e-4)
    assert len(set(map(round, (100 * v for v in logs)))) > 1
    assert ours.objective.rr is not None
    assert ours.objective.rr.lambdas.tolist() == [pytest.approx(found)]


def test_it_is_drawn_alike_and_a_resumed_training_keeps_it() -> None:
    first, second = trainer(net(0.3)), trainer(net(0.3))
    torch.manual_seed(5)
    found = balance(first, 0.3)
    torch.manual_seed(6)
    assert balance(second, 0.3) == found
    states: list[Progress] = []
    first.run(Callbacks(save=states.append, stop=lambda: first.step == 3))
    third = trainer(net(0.3))
    third.restore(states[0])
    assert third.objective.rr is not None
    assert third.objective.rr.lambdas.tolist() == [pytest.approx(found)]
    assert second.run()
    assert third.run()
    for name, value in second.weights().items():
        assert torch.equal(value, third.weights()[name]), name
