"""A model is mirrored before its weights are there: on the meta device, nothing of their size is made."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import racecar

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3), nn.GELU(),
    ).to(device)  # fmt: skip


def test_the_palindrome_is_that_of_the_loaded_model() -> None:
    early, late = racecar.Racecar(network("meta"), X, weight=1e-3), racecar.Racecar(network(), X, weight=1e-3)
    assert str(early.explain()) == str(late.explain())
    early.to_empty(device="cpu")
    early.model.load_state_dict(late.model.state_dict())
    for left, right in zip(early(X), late(X), strict=True):
        torch.testing.assert_close(left, right)


def test_weights_that_are_assigned_are_read() -> None:
    rr = racecar.Racecar(network("meta"), X)
    rr.model.load_state_dict(network().state_dict(), assign=True)
    torch.testing.assert_close(rr(X)[1], racecar.Racecar(network(), X)(X)[1])


def test_lambda_is_kept_where_there_were_no_weights() -> None:
    rr = racecar.Racecar(network("meta"), X, weight=[1e-3, 2e-3])
    rr.to_empty(device="cpu")
    torch.testing.assert_close(rr.lambdas, torch.tensor([1e-3, 2e-3]))


def test_it_is_proved_once_there_are_values() -> None:
    class Odd(nn.Module):
        """A number of numpy's at every call, which a graph would hold as a constant."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer(x)) * float(np.random.rand())

    rr = racecar.Racecar(Odd().to("meta"), X)
    rr.model.load_state_dict(Odd().state_dict(), assign=True)
    with pytest.raises(racecar.ExportError):
        rr(X)
    with pytest.raises(racecar.ExportError):
        racecar.Racecar(Odd(), X)


def test_a_weight_of_gigabytes_costs_nothing() -> None:
    """64 TB in float32: no machine has them."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4_000_000, 4_000_000), nn.ReLU(), nn.Linear(4_000_000, 10))
    rr = racecar.Racecar(model, torch.zeros(2, 4_000_000))
    assert rr.layers == ("0", "2")
