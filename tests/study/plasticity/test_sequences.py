"""Three chains of tasks: what stays, what is new, and that a task is a function of seed and number."""

import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.plasticity import sequences
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.sequences import KINDS, Sequence, load


def images(count: int, channels: int, size: int, classes: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))))


def digits(kind: str) -> Sequence:
    return KINDS[kind](images(40, 1, 28, 10), images(30, 1, 28, 10, 1), PlasticityConfig())


def test_random_labels_are_new_for_every_task_and_seed_and_the_images_stay() -> None:
    chain = digits("random-labels")
    tasks = [chain.task(seed, number) for seed, number in ((0, 0), (0, 1), (1, 0), (0, 1))]
    assert torch.equal(tasks[1].labels, tasks[3].labels)
    assert not any(torch.equal(tasks[i].labels, tasks[j].labels) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all(torch.equal(t.inputs, tasks[0].inputs) and t.test_inputs is None for t in tasks)
    assert set(torch.cat([t.labels for t in tasks]).tolist()) == set(range(10))
    # By hand: the mean of 2 × 2 pixels, then mean 0 and deviation 1.
    pixels = chain.train.pixels.double().view(40, 14, 2, 14, 2).mean((2, 4)).flatten(1)
    expected = (pixels - pixels.mean()) / pixels.std()
    torch.testing.assert_close(tasks[0].inputs, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_permutation_is_the_same_for_training_and_test_images() -> None:
    chain = digits("permuted-pixels")
    plain, test = chain.inputs.flatten(1), chain.test_inputs.flatten(1)
    first, second = chain.task(0, 0), chain.task(0, 1)
    for task in (first, second):
        assert task.test_inputs is not None
        order = [(plain == column[:, None]).all(0).nonzero().item() for column in task.inputs.T]
        assert sorted(order) == list(range(196))
        assert torch.equal(task.test_inputs, test[:, order])
        assert torch.equal(task.labels, chain.train.labels)
        assert torch.equal(task.test_labels, chain.test.labels)
    assert not torch.equal(first.inputs, second.inputs)


def test_a_class_sequence_has_every_class_once_with_labels_from_0_on() -> None:
    train, test = images(36, 3, 32, 6), images(24, 3, 32, 6, 1)
    chain = KINDS["class-sequence"](train, test, PlasticityConfig(sequence="class-sequence", variants=["Std"], tasks=3))
    seen: list[int] = []
    for number in range(3):
        task = chain.task(0, number)
        assert task.inputs.shape == (12, 3, 16, 16)
        assert task.test_inputs is not None
        assert task.test_inputs.shape == (8, 3, 16, 16)
        for label in (0, 1):
            of = {
                int(train.labels[(chain.inputs == x).flatten(1).all(1).nonzero().item()])
                for x in task.inputs[task.labels == label]
            }
            of |= {
                int(test.labels[(chain.test_inputs == x).flatten(1).all(1).nonzero().item()])
                for x in task.test_inputs[task.test_labels == label]
            }
            assert len(of) == 1  # one class has one label, in training and in test
            seen += of
    assert sorted(seen) == list(range(6))
    assert chain.classes == 2
    assert chain.network()(task.inputs).shape == (12, 2)


@pytest.fixture
def source(monkeypatch):
    def given(where: str):
        return images(400, 3, 32, 10), images(200, 3, 32, 10, 1)

    monkeypatch.setattr(sequences, "train_and_validation", given)


def test_as_many_images_of_every_class_as_the_tasks_need(source) -> None:
    config = PlasticityConfig(
        sequence="class-sequence", variants=["Std"], tasks=5, train_images=40, test_images=10, dataset="cifar10"
    )
    train, test = load("hub", config)
    assert train.labels.bincount().tolist() == [20] * 10
    assert test.labels.bincount().tolist() == [5] * 10
    assert [len(i) for i in load("hub", PlasticityConfig(train_images=50, test_images=999))] == [50, 200]


def test_more_tasks_than_classes_and_more_images_than_there_are_are_refused(source) -> None:
    settings = {"sequence": "class-sequence", "variants": ["Std"], "dataset": "cifar10"}
    with pytest.raises(StudyError, match=r"CIFAR-10 has 10 classes, too few for 6 tasks of 2.*--tasks"):
        load("hub", PlasticityConfig(**settings, tasks=6))
    with pytest.raises(StudyError, match="cannot draw 1000 of 400 images"):
        load("hub", PlasticityConfig(**settings, tasks=5))
