"""What users add to a recipe, against loops written by hand and other libraries' groups and weights."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

import racecar
from racecar.study.classification.batches import Batches, InMemory, Normalisation
from racecar.study.classification.evaluation import accuracy
from racecar.study.classification.extras import Extras, blocks
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

UNIT = Normalisation.unit(1)
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=0.05, optimiser="sgd", weight_decay=1e-3, augmentation="crop")


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def images(count: int) -> Images:
    draw = torch.Generator().manual_seed(count)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 0])[torch.arange(count) % 7]  # not equally frequent
    pixels = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=draw)
    return Images(pixels, labels, tuple("abcd"))


TRAIN, TEST = images(44), images(20)
DATA = InMemory(TRAIN, TEST, UNIT)
WEIGHTS = (2.0, 0.5, 1.0, 3.0)


def net(dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(256, 4),
    )


def mirrored(model: nn.Module, weight: float = 1e-3) -> racecar.Racecar:
    return racecar.Racecar(model, UNIT(TRAIN.pixels[:4]), layers=1, weight=weight, reduction="sum", input_range="paper")


def trainer(model: nn.Module, extras: Extras, *, rr: bool = True, recipe: Recipe = RECIPE, **options) -> Trainer:
    objective = Objective(model, mirrored(model) if rr else None)
    return Trainer(
        objective, recipe, DATA, seed=3, accelerator=make_accelerator(), evaluations=recipe.epochs, extras=extras,
        **options,
    )  # fmt: skip


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_it_is_the_loop_one_would_write() -> None:
    recipe = replace(RECIPE, label_smoothing=0.1)
    ours = net(dropout=0.0)
    training = trainer(ours, Extras(clip=0.05, ema=0.7, layer_decay=0.5), recipe=recipe, class_weights=WEIGHTS)
    assert training.run()

    theirs = net(dropout=0.0)
    rr, average = mirrored(theirs), state(theirs)
    rates = {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 0.5, "1.bias": 0.5, "5.weight": 1.0, "5.bias": 1.0}
    groups = [
        {"params": [p], "lr": 0.05 * rates[name], "weight_decay": 1e-3 if p.ndim > 1 else 0.0}
        for name, p in theirs.named_parameters()
    ]
    optimiser = torch.optim.SGD(groups, 0.05, 0.9, nesterov=True)
    step = lengths = 0
    for epoch in range(3):
        for x, y, _ in Batches(TRAIN, 8, 3, UNIT, "crop").epoch(epoch):
            output, penalty = rr(x)
            log = output.log_softmax(1)
            w = torch.tensor(WEIGHTS)
            loss = sum(-0.9 * w[c] * row[c] - 0.1 / 4 * (w * row).sum() for row, c in zip(log, y, strict=True)) / len(y)
            optimiser.zero_grad()
            (loss + penalty).backward()
            length = math.sqrt(sum(p.grad.square().sum().item() for p in theirs.parameters()))
            lengths += length > 0.05
            for p in theirs.parameters():
                p.grad *= min(1.0, 0.05 / length)
            optimiser.step()
            beta = min(0.7, (1 + step) / (10 + step))
            for name, value in theirs.state_dict().items():
                average[name] = beta * average[name] + (1 - beta) * value if value.is_floating_point() else value
            step += 1
    assert lengths > 10
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    kept = training.weights()
    for name, value in average.items():
        torch.testing.assert_close(kept[name], value, msg=name)
    theirs.load_state_dict(average)
    assert training.history[-1].accuracy == pytest.approx(accuracy(theirs, DATA)[0])


def test_an_average_leaves_the_trained_weights_and_the_palindrome_alone() -> None:
    plain, averaged = net(), net()
    first, second = trainer(plain, Extras()), trainer(averaged, Extras(ema=0.9, keep="best"))
    first.run()
    second.run()
    assert_equal(state(plain), state(averaged))
    assert [p.penalty for p in first.history] == [p.penalty for p in second.history]
    kept = second.weights()
    assert any(not torch.equal(value, kept[name]) for name, value in state(averaged).items())


@pytest.mark.parametrize(
    "extras",
    [Extras(keep="best", ema=0.8), Extras(clip=0.1, layer_decay=0.7, patience=2), Extras(keep="best", patience=1)],
)
def test_interrupted_anywhere_it_ends_with_the_same_weights(extras) -> None:
    recipe = replace(RECIPE, epochs=4)
    first = trainer(net(), extras, recipe=recipe, class_weights=WEIGHTS)
    assert first.run()
    whole = first.weights()
    for stops in ([2], [5, 6, 12], [11, 17, 18, 20]):
        states: list[Progress] = []
        for stop in [*stops, None]:
            training = trainer(net(), extras, recipe=recipe, class_weights=WEIGHTS)
            if states:
                training.restore(states[-1])
            torch.manual_seed(999)
            if training.run(
                Callbacks(save=states.append, stop=lambda t=training, s=stop: s is not None and t.step >= s)
            ):
                break
        assert_equal(training.weights(), whole)
        assert [(p.epoch, p.accuracy) for p in training.history] == [(p.epoch, p.accuracy) for p in first.history]


def scripted(training: Trainer, accuracies: list[float]) -> Callable[..., object]:
    """Let the epochs have these accuracies; gives what notes the weights after every epoch."""
    left = iter(accuracies)
    training.accuracy = lambda alive: (next(left), 1.0)  # type: ignore[method-assign]
    return lambda point, step: seen.append(state(training.objective.model))


seen: list[dict[str, Tensor]] = []


@pytest.mark.parametrize(
    ("keep", "patience", "epochs", "kept"),
    [("best", 0, 6, 2), ("last", 0, 6, 6), ("best", 2, 4, 2), ("last", 2, 4, 4), ("best", 3, 5, 2), ("best", 4, 6, 2)],
)
def test_the_best_epoch_is_the_first_with_its_accuracy(keep, patience, epochs, kept) -> None:
    seen.clear()
    training = trainer(net(), Extras(keep=keep, patience=patience), recipe=replace(RECIPE, epochs=6))
    note = scripted(training, [0.2, 0.5, 0.5, 0.4, 0.5, 0.1])
    assert training.run(Callbacks(note=note))
    assert len(training.history) == len(seen) == epochs
    assert training.kept.epoch == kept
    assert_equal(training.weights(), seen[kept - 1])


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(4), y=TRAIN.labels.numpy())
    assert Extras(class_weights="balanced").weights(TRAIN.classes, TRAIN.labels) == pytest.approx(expected.tolist())
    given = Extras(class_weights="b=2, d=0.5").weights(TRAIN.classes, TRAIN.labels)
    assert given is not None
    assert [w / given[0] for w in given] == pytest.approx([1, 2, 1, 0.5])
    assert sum(given[i] for i in TRAIN.labels) / len(TRAIN) == pytest.approx(1)
    assert Extras().weights(TRAIN.classes, TRAIN.labels) is None
    for text, said in (("x=1", "no class 'x'; there are a, b"), ("a", "no name=weight"), ("a=-1", "no name=weight")):
        with pytest.raises(StudyError, match=said):
            Extras(class_weights=text).weights(TRAIN.classes, TRAIN.labels)


def test_blocks_of_libraries() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    scales = {id(p): g["lr_scale"] for g in param_groups_layer_decay(vit, layer_decay=0.5) for p in g["params"]}
    ours = Extras(layer_decay=0.5).scales(vit)
    for name, p in vit.named_parameters():
        if not name.startswith("norm."):  # the last norm is the head's there
            assert ours[p] == scales[id(p)], name
    resnet = timm.create_model("resnet18", num_classes=5)
    assert list(blocks(resnet)) == ["conv1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "fc"]
    assert sum(map(len, blocks(resnet).values())) == len(list(resnet.parameters()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patience": -1}, "patience must not be negative"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"clip": math.nan}, "clip must not be negative"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
    ],
)
def test_values_that_make_no_sense(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        Extras(**change)


def test_only_what_was_chosen_is_stored() -> None:
    assert Extras().chosen() == {}
    assert Extras(clip=1.0, keep="best").chosen() == {"clip": 1.0, "keep": "best"}


def test_a_state_without_the_average_is_of_something_else() -> None:
    states: list[Progress] = []
    trainer(net(), Extras()).run(Callbacks(save=states.append, stop=lambda: True))
    with pytest.raises(StudyError, match="does not fit"):
        trainer(net(), Extras(ema=0.5)).restore(states[0])
