"""Images changed by torchvision, against its functions called by hand; mixing against its formula."""

import sys

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.study.classification import augmentation as module
from racecar.study.classification.augmentation import Augmentation, erased, mixed, transformed
from racecar.study.classification.batches import Batches, InMemory, Normalisation
from racecar.study.classification.extras import Extras
from racecar.study.classification.objective import Objective
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.accelerator import make_accelerator, reset_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

UNIT = Normalisation.unit(3)
NAMES: tuple[Augmentation, ...] = ("resized-crop", "randaugment", "trivialaugment")


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


def images(count: int, channels: int = 3) -> Images:
    draw = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, channels, 12, 10), dtype=torch.uint8, generator=draw)
    return Images(pixels, torch.arange(count) % 3, tuple("abc"))


def test_what_it_needs_is_said(monkeypatch) -> None:
    module.transforms.cache_clear()
    for name in [n for n in sys.modules if n.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    extra = r'needs torchvision: pip install "racecar-training\[vision\]"'
    with pytest.raises(StudyError, match=f"--mixup {extra}"):
        Extras(mixup=0.2).check_libraries("none")
    with pytest.raises(StudyError, match=f"--augmentation randaugment {extra}"):
        Extras().check_libraries("randaugment")
    Extras(clip=1).check_libraries("flip-crop")
    module.transforms.cache_clear()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_drawn_by_its_own_seed(name, channels) -> None:
    pytest.importorskip("torchvision")
    pixels, seeds = images(6, channels).pixels, torch.arange(6) * 1000
    torch.manual_seed(4)
    state = torch.get_rng_state()
    found = transformed(pixels, name, seeds)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == pixels.shape
    assert found.dtype == torch.uint8
    alone = torch.cat([transformed(pixels[i : i + 1], name, seeds[i : i + 1]) for i in (3, 1)])
    assert torch.equal(alone, found[[3, 1]])
    assert not torch.equal(transformed(pixels, name, seeds + 1), found)


def test_a_resized_crop_is_a_part_stretched_and_half_of_them_are_mirrored() -> None:
    pytest.importorskip("torchvision")
    ramp = (torch.arange(24) * 10).to(torch.uint8).expand(400, 1, 16, 24)
    rows = transformed(ramp, "resized-crop", torch.arange(400)).float().mean(2)[:, 0]
    steps = rows.diff(dim=1)
    rising, falling = (steps >= 0).all(1), (steps <= 0).all(1)
    assert bool((rising ^ falling).all())
    assert 0.4 < float(rising.float().mean()) < 0.6
    slopes = (rows[:, 0] - rows[:, -1]).abs() / 230  # the share of the width, as torchvision chooses it
    assert float(slopes.min()) > 0.15
    assert float(slopes.max()) > 0.8
    assert float(slopes.std()) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_processes_see_together_what_one_sees_from_any_batch_on(name) -> None:
    pytest.importorskip("torchvision")
    found = images(22)
    whole = list(Batches(found, 8, 1, UNIT, name).epoch(2))
    for rank in range(2):
        part = list(Batches(found, 8, 1, UNIT, name, rank=rank, world=2).epoch(2, first=1))
        for (batch, labels, _), (all_images, all_labels, _) in zip(part, whole[1:], strict=True):
            assert torch.equal(batch, all_images[rank::2])
            assert torch.equal(labels, all_labels[rank::2])
    other = next(iter(Batches(found, 8, 1, UNIT, name).epoch(3)))[0]
    assert not torch.equal(other, whole[0][0])


def test_built_in_augmentation_is_as_it_was() -> None:
    """Studies are to go on to the same weights."""
    batch, _, _ = next(iter(Batches(images(22), 8, 1, UNIT, "flip-crop").epoch(2)))
    assert float(batch.sum()) == pytest.approx(1229.4236, abs=1e-3)


def test_erased_rectangles() -> None:
    pytest.importorskip("torchvision")
    batch = torch.ones(300, 2, 12, 12).contiguous(memory_format=torch.channels_last)
    assert erased(batch, 0.4, torch.arange(300)) is batch
    gone = batch == 0
    assert bool((gone[:, 0] == gone[:, 1]).all())
    some = gone[:, 0].flatten(1).any(1)
    assert 0.3 < float(some.float().mean()) < 0.5
    for image in gone[some][:, 0]:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        box = image[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
        assert bool(box.all())
        assert 0.01 < box.numel() / image.numel() < 0.5


def proportion(targets: Tensor, labels: Tensor) -> float:
    """λ, from the first image whose neighbour is of another class."""
    i = int((labels != labels.roll(1)).nonzero()[0])
    return float(targets[i, labels[i]])


def test_mixing() -> None:
    pytest.importorskip("torchvision")
    x, labels = torch.rand(9, 3, 12, 10), torch.tensor([0, 1, 2, 2, 0, 1, 1, 0, 2])
    one_hot = nn.functional.one_hot(labels, 3).float()
    kinds = []
    for seed in range(40):
        images_, targets = mixed(x, labels, 3, mixup=0.8, cutmix=1.0 if seed >= 10 else 0.0, seed=seed)
        share = proportion(targets, labels)
        torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot.roll(1, 0))
        blended = share * x + (1 - share) * x.roll(1, 0)
        if torch.allclose(images_, blended, atol=1e-6):
            kinds.append("mixup")
            continue
        kinds.append("cutmix")
        other = (images_ != x).any(1)
        assert torch.equal(torch.where(other[:, None], x.roll(1, 0), x), images_)
        assert float(other.float().mean()) == pytest.approx(1 - share, abs=1e-4)
    assert set(kinds[:10]) == {"mixup"}
    assert {"mixup", "cutmix"} == set(kinds[10:])
    again = mixed(x, labels, 3, 0.8, 1.0, 39)
    assert torch.equal(again[0], images_)


def test_what_is_regenerated_is_the_mixed_image_and_the_loss_is_of_mixed_labels() -> None:
    pytest.importorskip("torchvision")
    found = images(16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(192, 3))
    rr = racecar.Racecar(model, UNIT(found.pixels[:4]), layers=1, weight=0.1)
    recipe = Recipe(epochs=1, batch_size=16, learning_rate=0.1, optimiser="sgd")
    data = InMemory(found, found, UNIT)
    extras = Extras(mixup=0.9, erasing=0.5)
    training = Trainer(Objective(model, rr), recipe, data, seed=1, accelerator=make_accelerator(), extras=extras)
    batch, labels, _ = next(iter(training.batches.epoch(0)))
    seen, targets = training.augmented(batch.clone(), labels, 0)
    assert not torch.equal(seen, batch)
    output, _ = rr(seen)
    loss = -(targets * output.log_softmax(1)).sum(1).mean()
    (input_pair, *_) = rr.reconstruct(seen).values()
    penalty = 0.1 * 0.5 * (input_pair[0] - input_pair[1]).square().mean()
    assert torch.equal(input_pair[0], seen)
    assert training.run()
    assert training.history[0].loss == pytest.approx(loss.item(), rel=1e-5)
    assert training.history[0].penalty == pytest.approx(penalty.item(), rel=1e-5)


def test_interrupted_anywhere_it_ends_with_the_same_weights() -> None:
    pytest.importorskip("torchvision")
    found = images(22)
    recipe = Recipe(epochs=2, batch_size=6, learning_rate=0.02, augmentation="randaugment")
    extras = Extras(mixup=0.5, cutmix=0.5, erasing=0.5, ema=0.5, class_weights="balanced")

    def trainer() -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(320, 3))
        rr = racecar.Racecar(model, UNIT(found.pixels[:4]), layers=1, weight=0.1)
        data, weights = InMemory(found, found, UNIT), extras.weights(found.classes, found.labels)
        return Trainer(
            Objective(model, rr), recipe, data, seed=1, accelerator=make_accelerator(), extras=extras,
            class_weights=weights,
        )  # fmt: skip

    whole = trainer()
    assert whole.run()
    for stop in range(1, whole.total):
        states: list[Progress] = []
        first, second = trainer(), trainer()
        first.run(Callbacks(save=states.append, stop=lambda: first.step == stop))  # noqa: B023
        torch.manual_seed(stop)
        second.restore(states[0])
        assert second.run()
        for name, value in whole.weights().items():
            assert torch.equal(value, second.weights()[name]), (stop, name)
