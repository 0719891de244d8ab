"""The expected calibration error, beside torchmetrics' and cases that can be seen through."""

import pytest
import torch

from racecar.analysis import calibration


def test_it_is_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(500, 4), torch.randint(4, (500,))
    expected = metrics.multiclass_calibration_error(logits.softmax(1), labels, num_classes=4, n_bins=15)
    found = calibration(logits, labels)
    assert found.error == pytest.approx(expected.item(), abs=1e-5)
    assert sum(found.counts) == 500


def test_one_who_is_always_sure_and_half_right_is_off_by_a_half() -> None:
    found = calibration(torch.tensor([[50.0, 0.0]] * 4), torch.tensor([0, 1, 0, 1]), bins=10)
    assert found.error == pytest.approx(0.5)
    assert found.counts == (0,) * 9 + (4,)
    assert found.accuracy[-1] == 0.5


@pytest.mark.parametrize(
    ("labels", "bins", "said"), [([0], 15, "1 labels for 2 answers"), ([0, 1], 0, "bins is 0; use 1 or more")]
)
def test_bad_input(labels, bins, said) -> None:
    with pytest.raises(ValueError, match=said):
        calibration(torch.zeros(2, 2), torch.tensor(labels), bins)
