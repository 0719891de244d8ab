"""The tracer sees one layout in memory, a batch may come in another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import racecar


class Tokens(nn.Module):
    """Pixels as rows, as codebooks and transformers take them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x)).permute(0, 2, 3, 1).contiguous()
        return self.b(h.view(-1, 5))


def test_derived_with_channels_last_and_called_without() -> None:
    torch.manual_seed(0)
    net, x = Tokens(), torch.randn(4, 3, 6, 7)
    rr = racecar.Racecar(net, x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(rr(x)[0], net(x))
    torch.testing.assert_close(rr(x)[1], racecar.Racecar(net, x)(x)[1])
