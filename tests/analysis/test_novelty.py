"""Scores of novelty, beside closed forms and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import racecar
from racecar.analysis import Mahalanobis, auroc, energy, layer_errors, pair_errors


def test_errors_of_a_linear_layer_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    rr = racecar.Racecar(model, torch.randn(2, 6))
    x = torch.randn(5, 6)
    first, _, last = model
    hidden = first(x).tanh()
    output = last(hidden)
    deep = (output - last.bias) @ last.weight
    shallow = (deep.tanh() - first.bias) @ first.weight
    expected = torch.stack([0.5 * (x - shallow).square().mean(1), 0.5 * (hidden - deep.tanh()).square().mean(1)], 1)
    found = layer_errors(rr.eval(), x)
    assert found.shape == (5, 2)
    assert not found.requires_grad
    pairs = rr.reconstruct(x)
    direct = torch.stack([0.5 * (a - b).square().mean(1) for a, b in pairs.values()], 1)
    assert torch.allclose(found, direct)
    assert torch.allclose(found[:, 0], expected[:, 0], atol=1e-5)


def test_a_sample_stands_alone_without_batch_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    rr = racecar.Racecar(model, torch.randn(2, 1, 8, 8))
    x = torch.randn(6, 1, 8, 8)
    whole = layer_errors(rr, x)
    assert torch.allclose(whole[:3], layer_errors(rr, x[:3]), rtol=1e-4)


def test_what_is_not_known_takes_no_part() -> None:
    nan = float("nan")
    pairs = {"a": (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, nan], [3.0, 2.0]]))}
    assert pair_errors(pairs).tolist() == [[0.5], [1.0]]
    with pytest.raises(ValueError, match="not one per sample"):
        pair_errors(pairs | {"b": (torch.zeros(3, 2), torch.zeros(3, 2))})


def test_energy_of_equal_logits() -> None:
    assert energy(torch.zeros(2, 10)).tolist() == pytest.approx([-np.log(10)] * 2)
    with pytest.raises(ValueError, match="NaN"):
        energy(torch.tensor([[0.0, float("nan")]]))


def test_mahalanobis_is_the_squared_distance_in_standard_deviations() -> None:
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 2
    features = torch.randn(20_000, 2) * torch.tensor([1.0, 3.0]) + 10.0 * labels[:, None]
    score = Mahalanobis.fit(features, labels, 2, ridge=0.0)
    found = score(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 6.0], [12.0, 10.0]]))
    assert found.tolist() == pytest.approx([0.0, 4.0, 4.0, 4.0], abs=0.2)
    with pytest.raises(ValueError, match=r"classes \[2\] of 3 have no sample"):
        Mahalanobis.fit(features, labels, 3)


def test_auroc_is_scikit_learns_with_ties() -> None:
    torch.manual_seed(0)
    known, unknown = torch.randint(5, (40,)).float(), torch.randint(2, 7, (30,)).float()
    truth = np.r_[np.zeros(40), np.ones(30)]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, torch.cat([known, unknown]).numpy()))
    assert auroc(known, known) == 0.5
    with pytest.raises(ValueError, match="empty"):
        auroc(known, known[:0])
