"""The reverse pass starts where the block of the last layer ends, however the model writes what belongs to it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar

# What follows the last layer, and the same as one operation.
ENDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "an activation spelled out": (lambda h: h * torch.sigmoid(h), F.silu),
    "a norm spelled out": (
        lambda h: (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, keepdim=True, unbiased=False) + 1e-5),
        lambda h: F.layer_norm(h, h.shape[-1:]),
    ),
    "casts": (lambda h: torch.tanh(h.to(torch.float32).to(torch.float64)), torch.tanh),
}


class Ending(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.end = nn.Linear(6, 8), nn.Linear(8, 4), end
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("case", ENDS)
def test_what_belongs_to_the_last_block_is_followed(case: str) -> None:
    x = torch.randn(5, 6, dtype=torch.float64)
    pairs: list[Any] = [racecar.Racecar(Ending(end), x).reconstruct(x)["b"] for end in ENDS[case]]
    torch.testing.assert_close(pairs[0][1], pairs[1][1], rtol=1e-5, atol=1e-6)
    model = Ending(ENDS[case][1])
    expected = torch.relu((model(x) - model.b.bias) @ model.b.weight)
    torch.testing.assert_close(pairs[0][1], expected, rtol=1e-5, atol=1e-6)


def test_a_whole_number_made_of_the_output_is_no_start() -> None:
    model = Ending(lambda h: h.to(torch.long))
    x = torch.randn(5, 6, dtype=torch.float64)
    _, estimate = racecar.Racecar(model, x).reconstruct(x)["b"]
    output = model.b(torch.relu(model.a(x)))
    torch.testing.assert_close(estimate, torch.relu((output - model.b.bias) @ model.b.weight))
