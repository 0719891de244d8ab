"""Training against a loop written by hand, interrupted and resumed, diverging, out of memory."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from torch import nn

import racecar
from racecar.study.classification.batches import Batches, InMemory, Normalisation
from racecar.study.classification.evaluation import accuracy
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import DivergedError, StudyError
from racecar.study.images.decoded import Images

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int) -> Images:
    """Four classes that differ in where they are bright."""
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 120, (count, 1, 8, 8), dtype=torch.uint8, generator=GENERATOR)
    for i, label in enumerate(labels.tolist()):
        pixels[i, 0, (label // 2) * 4 :, (label % 2) * 4 :] += 100
    return Images(pixels, labels, tuple("abcd"))


TRAIN, TEST = images(44), images(20)
UNIT = Normalisation.unit(1)
DATA = InMemory(TRAIN, TEST, UNIT)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(256, 4),
    )


def mirrored(**options) -> Callable[[nn.Module], Objective]:
    example = UNIT(TRAIN.pixels[:4])
    return lambda model: Objective(model, racecar.Racecar(model, example, weight=1e-3, **options))


PENALTIES = {
    "Std": Objective,
    "RR": mirrored(layers=1, reduction="sum", input_range="paper"),
    "RR every third step, a layer drawn": mirrored(layers="all", reduction="sum", every=3, subset=1),
    "Ort": lambda model: Objective(model, regulariser=lambda m: 1e-2 * racecar.srip(m)),
    "Dec": lambda model: mirrored(layers=1, reduction="mean", decoder=net())(model),
}


def trainer(model: nn.Module, penalty: Callable[[nn.Module], Objective], recipe: Recipe, **options) -> Trainer:
    return Trainer(penalty(model), recipe, DATA, seed=3, accelerator=make_accelerator(), **options)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("name", ["Std", "RR"])
def test_it_is_the_loop_one_would_write(name, optimiser) -> None:
    recipe = Recipe(
        epochs=2, batch_size=8, learning_rate=0.02, optimiser=optimiser, schedule="cosine", weight_decay=1e-3
    )
    ours = net()
    training = trainer(ours, PENALTIES[name], recipe)
    assert training.run()

    theirs = net()
    rr = racecar.Racecar(theirs, UNIT(TRAIN.pixels[:4]), layers=1, weight=1e-3, reduction="sum", input_range="paper")
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 1e-3}, {"params": [p for p in theirs.parameters() if p.ndim == 1]}]
    if optimiser == "adam":
        reference: torch.optim.Optimizer = torch.optim.Adam(groups, 0.02, fused=True)
    else:
        reference = torch.optim.SGD(groups, 0.02, 0.9, nesterov=True, fused=True)
    step, losses = 0, []
    for epoch in range(2):
        for x, y, _ in Batches(TRAIN, 8, 3, UNIT).epoch(epoch):
            for group in reference.param_groups:
                group["lr"] = recipe.rate(step, 6)
            output, penalty = rr(x) if name == "RR" else (theirs(x), 0.0)
            loss = F.cross_entropy(output, y)
            losses.append((loss.item(), len(y)))
            reference.zero_grad()
            (loss + penalty).backward()
            reference.step()
            step += 1
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    last = losses[6:]
    assert training.history[1].loss == pytest.approx(sum(v * n for v, n in last) / 44, rel=1e-5)
    theirs.eval()
    expected = (theirs(UNIT(TEST.pixels)).argmax(1) == TEST.labels).float().mean().item()
    assert training.history[1].accuracy == pytest.approx(expected)
    assert expected > 0.5


@pytest.mark.parametrize("name", PENALTIES)
def test_interrupted_anywhere_it_ends_with_the_same_weights(name) -> None:
    recipe = Recipe(epochs=3, batch_size=10, learning_rate=0.01, augmentation="crop")
    whole = net(dropout=0.3)
    first = trainer(whole, PENALTIES[name], recipe)
    first.run()
    for stops in ([2], [5, 6, 12]):
        model = net(dropout=0.3)
        states: list[Progress] = []
        for stop in [*stops, None]:
            model = net(dropout=0.3)
            training = trainer(model, PENALTIES[name], recipe)
            if states:
                training.restore(states[-1])
            torch.manual_seed(999)  # another process has other random numbers
            finished = training.run(
                Callbacks(save=states.append, stop=lambda t=training, s=stop: s is not None and t.step >= s)
            )
            assert finished == (stop is None)
        for (key, a), b in zip(whole.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b), key
        assert [p.loss for p in training.history] == pytest.approx([p.loss for p in first.history])
        assert [p.train_accuracy for p in training.history] == pytest.approx([p.train_accuracy for p in first.history])


def test_a_state_of_another_network_is_refused() -> None:
    state = trainer(net(), PENALTIES["Std"], Recipe()).state()
    other = trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), PENALTIES["Std"], Recipe())
    with pytest.raises(StudyError, match="does not fit this training"):
        other.restore(state)


def test_frozen_modules_keep_weights_and_running_statistics() -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for parameter in model[:5].parameters():
        parameter.requires_grad_(False)
    trainer(model, PENALTIES["Std"], Recipe(epochs=2), eval_modules=tuple(model[:5])).run()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"5.weight", "5.bias"}


def test_accuracy_is_measured_as_often_as_asked_and_at_the_end() -> None:
    training = trainer(net(), PENALTIES["Std"], Recipe(epochs=7), evaluations=3)
    batches: list[int] = []
    training.run(Callbacks(alive=lambda: batches.append(training.step)))
    assert [p.epoch for p in training.history if p.accuracy is not None] == [2, 4, 6, 7]
    assert len(set(batches)) == 4  # an evaluation is a sign of life, batch by batch
    assert all(p.seconds > 0 for p in training.history)


def test_bfloat16_keeps_weights_in_float32_and_learns() -> None:
    model = net()
    training = trainer(model, PENALTIES["RR"], Recipe(epochs=4, batch_size=8, learning_rate=0.02, precision="bfloat16"))
    training.run()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert training.history[-1].loss < training.history[0].loss


def test_divergence_is_named() -> None:
    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] * self.weight * math.inf

    with pytest.raises(DivergedError, match=r"not finite in epoch 1 .*lower the learning rate"):
        trainer(Exploding(), PENALTIES["Std"], Recipe()).run()


def test_out_of_memory_says_which_batch_and_what_to_try() -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StudyError, match=r"batches of 64: try --batch.size 32"):
        trainer(Huge(), PENALTIES["Std"], Recipe()).run()


def test_accuracy_counts_in_evaluation_mode_and_restores_the_mode() -> None:
    model = net(dropout=0.9).train()
    batches: list[int] = []
    top1, top5 = accuracy(model, DATA, batch=7, alive=lambda: batches.append(1))
    assert len(batches) == 3
    assert model.training
    model.eval()
    output = model(UNIT(TEST.pixels))
    assert top1 == pytest.approx((output.argmax(1) == TEST.labels).float().mean().item())
    assert top5 == 1  # of four classes


def test_top_five_agrees_with_scikit_learn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
    test = replace(TEST, labels=torch.arange(20) % 9, classes=tuple("abcdefghi"))
    _, top5 = accuracy(model, InMemory(TRAIN, test, UNIT), batch=6)
    scores = model(UNIT(TEST.pixels)).detach().numpy()
    expected = sklearn.metrics.top_k_accuracy_score(test.labels, scores, k=5, labels=range(9))
    assert 0 < top5 < 1
    assert top5 == pytest.approx(expected)
