"""Hooks that are part of a model's own forward, as Hugging Face's that capture hidden states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar

captured: list[Tensor] | None = None


def capture(module: nn.Module, args: Any, output: Tensor) -> None:
    if captured is not None:
        captured.append(output)


capture.__module__ = "transformers.utils.output_capturing"


class Skipping(nn.Module):
    """Reads what its own hook has captured, which it installs in the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        global captured
        if not getattr(self, "installed", False):
            self.a.register_forward_hook(capture)
            self.installed = True
        captured = []
        try:
            h = self.b(torch.relu(self.a(x)))
            return self.c(h + captured[0])
        finally:
            captured = None


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_a_hook_of_the_forward_is_traced_with_it(called: bool, hooked: bool) -> None:
    torch.manual_seed(0)
    net, x, seen = Skipping(), torch.randn(6, 4), []
    if called:
        net(x)
    if hooked:
        net.a.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    rr = racecar.Racecar(net, x, layers="all")
    assert rr.layers == ("a", "b", "c")
    expected = net(x)
    seen.clear()
    output, _ = rr(x)
    assert torch.equal(output, expected)
    assert len(seen) == hooked
    _, back = rr.reconstruct(x)["a"]
    down = (output - net.c.bias) @ net.c.weight  # the estimate of the sum serves both of its branches
    through = torch.relu((down - net.b.bias) @ net.b.weight)
    torch.testing.assert_close(back, ((through + down) / 2 - net.a.bias) @ net.a.weight)
    rr.eval()
    assert torch.equal(rr.model(x), expected)
    assert len(net.a._forward_hooks) == 1 + hooked
    rr.train()
    program = rr._program((x,), {}, training=True)
    assert rr._program((x,), {}, training=True) is program
