import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from racecar.analysis import (
    LinearProbe,
    choose_l2,
    few_labels,
    fit_probe,
    knn_accuracy,
    knn_predict,
    usable_information,
)


def clusters(samples: int, units: int, classes: int, seed: int = 0, apart: float = 0.8) -> tuple[Tensor, Tensor]:
    """Correlated features of very different size, one of them constant, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    centres = apart * torch.randn(classes, units, generator=torch.Generator().manual_seed(99))
    x = (torch.randn(samples, units, generator=draw) + centres[labels]).cumsum(dim=1)
    x = x * torch.logspace(-2, 2, units) + 3
    x[:, 1] = 0.1
    return x, labels


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "units"), [(600, 12), (30, 60)])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_probe_is_scikit_learns_logistic_regression(samples: int, units: int, l2: float) -> None:
    x, y = clusters(samples, units, 4)
    other, other_labels = clusters(500, units, 4, seed=1)
    probe = fit_probe(x, y, 4, l2=l2)
    scaler = StandardScaler().fit(x.double().numpy())
    reference = LogisticRegression(C=1 / (l2 * samples), tol=1e-10, max_iter=10_000)
    reference.fit(scaler.transform(x.double().numpy()), y.numpy())
    scaled = scaler.transform(other.double().numpy())
    found = probe.logits(other).softmax(dim=1).double().numpy()
    assert found == pytest.approx(reference.predict_proba(scaled), abs=2e-3)
    assert np.mean(probe.predict(other).numpy() == reference.predict(scaled)) >= 0.996
    right = probe.predict(other) == other_labels
    assert torch.equal(probe.answers(other, other_labels), right)
    assert probe.accuracy(other, other_labels) == int(right.sum()) / 500


def test_the_gradient_of_the_loss_is_nil_for_many_samples_too() -> None:
    x, y = clusters(27_000, 80, 5)  # beyond two million numbers
    probe = fit_probe(x, y, 5, l2=1e-2)
    scaled = torch.from_numpy(StandardScaler().fit_transform(x.double().numpy()))
    weight, bias = (p.double().requires_grad_() for p in (probe.weight, probe.bias))
    loss = torch.nn.functional.cross_entropy(scaled @ weight.T + bias, y) + 0.5 * 1e-2 * weight.square().sum()
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in (weight, bias)) < 2e-5


def test_two_classes_have_the_closed_form_of_log_odds() -> None:
    # One feature that is ±1, right for 9 of 10: without decay the two logits differ by ± log 9.
    x = torch.tensor([1.0] * 10 + [-1.0] * 10)[:, None]
    y = torch.tensor([1] * 9 + [0] + [0] * 9 + [1])
    logits = fit_probe(x, y, 2, l2=1e-7).logits(torch.tensor([[1.0], [-1.0]]))
    assert (logits[:, 1] - logits[:, 0]).tolist() == pytest.approx([math.log(9), -math.log(9)], abs=1e-3)


def test_a_constant_feature_says_nothing_later_either() -> None:
    x, y = clusters(200, 6, 3)
    probe = fit_probe(x, y, 3)
    changed = x.clone()
    changed[:, 1] = 1e6
    assert torch.equal(probe.logits(changed), probe.logits(x))


def test_features_that_are_all_constant_leave_the_frequencies() -> None:
    probe = fit_probe(torch.ones(8, 3), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 2)
    assert probe.logits(torch.ones(1, 3)).softmax(1)[0].tolist() == pytest.approx([0.75, 0.25], abs=1e-4)


def test_the_same_data_give_the_same_bits_and_scaling_a_feature_changes_nothing() -> None:
    x, y = clusters(300, 8, 3)
    once, again = fit_probe(x, y, 3), fit_probe(x, y, 3)
    assert torch.equal(once.weight, again.weight)
    scaled = fit_probe(x * 2.0, y, 3)  # by a power of two, so to the same standardised features
    assert torch.equal(scaled.logits(x * 2.0), once.logits(x))


def test_too_few_steps_are_said() -> None:
    x, y = clusters(300, 8, 3)
    with pytest.raises(RuntimeError, match="not converged in 2 steps"):
        fit_probe(x, y, 3, l2=1e-6, steps=2)


def test_l2_is_chosen_by_held_out_samples() -> None:
    # Sixty units without meaning and one with: the fewer samples, the more decay is best, and never the least.
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 2
    x = torch.randn(300, 61, generator=draw)
    x[:, 0] += labels
    assert choose_l2(x, labels, 2, grid=(1e-6, 0.3)) == 0.3
    clear = torch.randn(3000, 4, generator=draw)
    clear[:, 0] += 6 * labels.repeat(10)
    assert choose_l2(clear, labels.repeat(10), 2, grid=(1e-4, 10.0)) == 1e-4


# --- other measures ---------------------------------------------------------------------------------------------------


def test_usable_information_of_a_known_channel() -> None:
    # Balanced labels through a channel that is right with 0.9: 1 bit less the entropy of 0.9.
    x = torch.tensor([1.0] * 10 + [-1.0] * 10)[:, None]
    y = torch.tensor([1] * 9 + [0] + [0] * 9 + [1])
    expected = 1 + 0.9 * math.log2(0.9) + 0.1 * math.log2(0.1)
    assert usable_information(fit_probe(x, y, 2, l2=1e-7), x, y) == pytest.approx(expected, abs=1e-5)


def test_usable_information_of_a_wrong_probe_is_negative() -> None:
    wrong = LinearProbe(torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.zeros(1), torch.ones(1), 1e-3)
    x, y = torch.tensor([[1.0], [-1.0], [1.0], [1.0]]), torch.tensor([1, 0, 1, 1])
    frequencies = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    expected = frequencies - math.log2(1 + math.exp(2))
    assert usable_information(wrong, x, y) == pytest.approx(expected, abs=1e-6)


def test_few_labels_are_balanced_nested_and_drawn_by_seed() -> None:
    labels = torch.tensor([5, 0, 0, 2] * 40)
    five, ten = few_labels(labels, 5, 3), few_labels(labels, 10, 3)
    assert labels[ten].bincount().tolist() == [10, 0, 10, 0, 0, 10]
    assert set(five.tolist()) < set(ten.tolist())
    assert torch.equal(ten, ten.sort().values)
    assert not torch.equal(ten, few_labels(labels, 10, 4))
    assert torch.equal(few_labels(labels[::2], 40, 0), torch.arange(80))
    with pytest.raises(ValueError, match="class 2 has 40 samples"):
        few_labels(labels, 41, 0)


def test_few_labels_draw_every_sample_equally_often() -> None:
    labels = torch.arange(40) % 2
    drawn = torch.cat([few_labels(labels, 5, seed) for seed in range(400)]).bincount(minlength=40)
    assert drawn.min() > 60  # 100 expected each, s.d. 8.7
    assert drawn.max() < 140


@pytest.mark.parametrize("k", [1, 7])
def test_nearest_neighbours_are_scikit_learns(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 3
    x = torch.randn(200, 5, generator=draw) + 0.7 * torch.eye(5)[y]
    test = torch.randn(150, 5, generator=draw)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x.double().numpy(), y.numpy())
    expected = torch.from_numpy(reference.predict(test.double().numpy()))
    assert torch.equal(knn_predict(x, y, test, k), expected)
    assert knn_accuracy(x, y, test, expected, k) == 1
    assert knn_accuracy(x, y, test, (expected + 1) % 3, k) == 0


def test_nearest_neighbours_of_many_samples_are_found_in_pieces() -> None:
    draw = torch.Generator().manual_seed(0)
    x, test = torch.randn(9000, 3, generator=draw), torch.randn(4000, 3, generator=draw)  # 36 million similarities
    y = (x[:, 0] > 0).long()
    chosen = torch.tensor([0, 1900, 3999])
    assert torch.equal(knn_predict(x, y, test, 5)[chosen], knn_predict(x, y, test[chosen], 5))
    assert len(knn_predict(x, y, test, 5)) == 4000


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(4, 2, 2)}, r"features have shape \(4, 2, 2\)"),
        ({"features": torch.full((4, 2), math.inf)}, "8 NaN or infinite"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels are 0 to 3; use 0 to 2"),
        ({"labels": torch.tensor([0, 1, -1, 2])}, "labels are -1 to 2"),
        ({"labels": torch.tensor([0, 1])}, r"labels have shape \(2,\); pass \[4\]"),
        ({"labels": torch.zeros(4)}, "labels have dtype torch.float32"),
        ({"classes": 1}, "classes is 1"),
        ({"l2": 0.0}, "l2 is 0.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_what_makes_no_probe_is_refused(change: dict, message: str) -> None:
    good = {"features": torch.eye(4)[:, :2], "labels": torch.tensor([0, 1, 2, 0]), "classes": 3}
    with pytest.raises(ValueError, match=message):
        fit_probe(**(good | change))


def test_a_probe_refuses_features_of_another_layer() -> None:
    x, y = clusters(60, 4, 3)
    with pytest.raises(ValueError, match="features have 5 units, the probe was trained on 4"):
        fit_probe(x, y, 3).predict(torch.ones(2, 5))


def test_neighbours_that_there_are_not_are_refused() -> None:
    x, y = clusters(10, 4, 2)
    with pytest.raises(ValueError, match="k is 20; use 1 to 10"):
        knn_predict(x, y, x)
    with pytest.raises(ValueError, match="train has 4 units and test 3"):
        knn_predict(x, y, torch.ones(2, 3), 1)
