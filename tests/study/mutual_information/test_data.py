from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import io

from racecar.study.mutual_information.data import (
    N_TEST,
    N_TRAIN,
    accuracy,
    constant_predictor,
    labels,
    patterns,
    split,
)

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "ib" / "var_u.mat"


def test_patterns_are_the_integers_in_binary() -> None:
    weights = 2 ** torch.arange(11, -1, -1)
    assert ((patterns().long() * weights).sum(1) == torch.arange(4096)).all()


def test_label_statistics_as_published() -> None:
    y = labels()
    assert y.shape == (4096,)
    assert int(y.sum()) == 2118
    assert y[:N_TRAIN].double().mean() == pytest.approx(0.4373, abs=5e-5)
    assert y[N_TRAIN:].double().mean() == pytest.approx(0.8364, abs=5e-5)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/data beside the checkout")
def test_equal_to_the_published_file() -> None:
    published = io.loadmat(PUBLISHED)
    assert np.array_equal(published["F"], patterns().numpy())
    assert np.array_equal(published["y"].ravel(), labels().numpy())


@pytest.mark.parametrize("protocol", ["paper", "sound"])
def test_splits_divide_all_patterns(protocol) -> None:
    found = split(protocol, 3)
    assert len(found.train) == N_TRAIN
    assert len(found.test) == N_TEST
    assert torch.cat([found.train, found.test]).sort().values.equal(torch.arange(4096))


def test_the_papers_split_is_in_file_order_whatever_the_seed() -> None:
    for seed in (0, 7):
        assert split("paper", seed).train.equal(torch.arange(N_TRAIN))


def test_the_sound_split_is_stratified_shuffled_and_seeded() -> None:
    y = labels()
    one, two = split("sound", 0), split("sound", 1)
    assert not one.test.equal(two.test)
    assert one.test.equal(split("sound", 0).test)
    for found in (one, two):
        assert y[found.test].double().mean() == pytest.approx(2118 / 4096, abs=1 / N_TEST)
        # Shuffled: the first half of the training patterns has the labels' mean, not the file's.
        assert y[found.train[: N_TRAIN // 2]].double().mean() == pytest.approx(2118 / 4096, abs=0.05)


def test_the_constant_answers_score_what_the_paper_reports_for_its_collapsed_model() -> None:
    assert constant_predictor("paper", 0) == pytest.approx(0.1361, abs=5e-5)
    assert constant_predictor("paper", 1) == pytest.approx(0.8639, abs=5e-5)
    assert constant_predictor("sound", 1) == pytest.approx(2118 / 4096, abs=1 / N_TEST)


def test_accuracy_of_batches_weighs_the_remainder_as_much() -> None:
    correct = torch.zeros(2, N_TEST, dtype=torch.bool)
    correct[0, 512:] = True
    correct[1] = True
    assert accuracy(correct, "paper").tolist() == [0.5, 1.0]
    assert accuracy(correct, "sound")[0] == pytest.approx(307 / 819)
