"""Both passes computed again block by block: ``checkpoint="both"`` changes nothing but the memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from racecar import ArgumentError, Racecar

from .test_cheaper import saved


class Block(nn.Module):
    """Attention and a perceptron on a residual stream, with dropout in both."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.drop = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.drop(self.down(F.gelu(self.up(self.second(x)))))


def transformer(blocks: int, dropout: float = 0.1) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), *(Block(8, dropout) for _ in range(blocks)), nn.LayerNorm(8), nn.Linear(8, 3))
    return net.double(), torch.randn(4, 5, 6, dtype=torch.float64)


def conv_net(norm: type[nn.Module] = nn.BatchNorm2d, **kwargs: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(9):
        layers += [nn.Conv2d(8 if i else 3, 8, 3, padding=1), norm(8, **kwargs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 3 == 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4)).double(), torch.randn(6, 3, 8, 8, dtype=torch.float64)


def frozen_norms() -> tuple[nn.Module, Tensor]:
    net, x = conv_net()
    for module in net.modules():
        module.train(not isinstance(module, nn.BatchNorm2d))
    net.training = True
    return net, x


def small() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 2)).double(), torch.ones(9, 6).double()


class UNet(nn.Module):
    """Long skip connections, a list that passes through, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (2, 6, 6))
        self.up = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (12, 12, 12))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips = []
        for conv in self.down:
            x = F.relu(conv(x))
            skips.append(x)
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            x = torch.tanh(conv(torch.cat([x, skip], 1)))
        a, b = self.head(x).chunk(2, 1)
        return a, b.mean()


def u_net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return UNet().double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)


def step(net: nn.Module, x: Tensor, **options: Any) -> tuple[Racecar, dict[str, Tensor]]:
    """Two steps' gradients, all that is left on the model, and the generator's next number."""
    net = copy.deepcopy(net)
    if options.pop("untied", False):
        options["decoder"] = copy.deepcopy(net)
    rr = Racecar(net, x, weight=0.3, **options)
    found: dict[str, Tensor] = {}
    torch.manual_seed(5)
    for call in range(2):
        output, penalty = rr(x)
        outputs = output if isinstance(output, tuple) else (output,)
        found |= {f"output {call} {i}": o.detach() for i, o in enumerate(outputs)} | {f"penalty {call}": penalty}
        found[f"number {call}"] = torch.rand(1)
        (sum(o.square().sum() for o in outputs) + penalty).backward()
    found |= {name: p.grad for name, p in rr.named_parameters() if p.grad is not None}
    return rr, found | {name: b.clone() for name, b in net.named_buffers()}


CASES: dict[str, Any] = {
    "transformer": (lambda: transformer(6), {}),
    "few blocks": (lambda: transformer(1), {}),
    "all layers": (lambda: transformer(3), {"layers": "all"}),
    "layerwise": (lambda: transformer(4), {"layerwise": True}),
    "fraction": (lambda: transformer(4), {"fraction": 0.5}),
    "untied": (lambda: transformer(4), {"untied": True}),
    "every": (lambda: transformer(4), {"every": 2}),
    "one layer": (lambda: transformer(4), {"layers": 1}),
    "sums": (conv_net, {"reduction": "sum", "input_range": "paper"}),
    "averages over all batches": (lambda: conv_net(momentum=None), {}),
    "instance norm": (lambda: conv_net(nn.InstanceNorm2d, track_running_stats=True, affine=True), {}),
    "frozen norms": (frozen_norms, {}),
    "skips": (u_net, {}),
    "a small one": (small, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_changes_nothing_but_the_memory(case: str) -> None:
    make, options = CASES[case]
    net, x = make()
    _, wanted = step(net, x, **options)
    _, found = step(net, x, **options, checkpoint="both")
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_a_deep_net_keeps_little() -> None:
    net, x = transformer(16)
    x = x.repeat(32, 1, 1)
    kept = {way: saved(Racecar(net, x, checkpoint=way), x) for way in (False, True, "both")}
    assert kept["both"] < 0.2 * kept[True] < 0.2 * kept[False]


def test_blocks_lie_in_groups() -> None:
    net, x = transformer(24)
    calls = Racecar(net, x, checkpoint="both").program.palindrome.training.graph.find_nodes(op="call_module")
    assert len(calls) < 24
    assert any("_to_" in str(call.target) for call in calls)


def test_autocast_is_as_it_was_when_computed_again() -> None:
    net, x = transformer(4)
    net, x = net.float(), x.float()
    found: list[Tensor] = []
    for way, half in ((False, False), (False, True), ("both", True)):
        model = copy.deepcopy(net)
        rr = Racecar(model, x, checkpoint=way)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output, penalty = rr(x)
        (output.float().square().sum() + penalty).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact, plain, again = found
    assert 0 < (again - exact).norm() < 1.1 * (plain - exact).norm()


def test_hooks_run_once() -> None:
    net, x = conv_net()
    calls: list[str] = []
    for i in (3, 6, 13):
        net.get_submodule(str(i)).register_forward_hook(lambda m, a, o: calls.append("hook"))
    _, wanted = step(net, x)
    before = len(calls)
    _, found = step(net, x, checkpoint="both")
    assert 0 < before == len(calls) - before
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


class Counted(nn.Module):
    """Reads a buffer that it changes."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x) * self.scale
        self.scale.mul_(0.5)
        return h


def test_a_buffer_that_is_read_and_changed_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r'checkpoint="both".*scale.*changes'):
        Racecar(nn.Sequential(Counted(), nn.Linear(4, 2)), torch.randn(3, 4), checkpoint="both")


def test_what_does_not_go_with_it_is_refused() -> None:
    net, x = transformer(2)
    with pytest.raises(ArgumentError, match="subset"):
        Racecar(net, x, checkpoint="both", subset=1)
    with pytest.raises(ArgumentError, match="shared"):
        Racecar(net, x, checkpoint="both", norm_statistics="shared")
    with pytest.raises(ArgumentError, match="True, False or 'both'"):
        Racecar(net, x, checkpoint="all")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, at each graph break
def test_under_compile_its_parts_run_uncompiled() -> None:
    net, x = transformer(2, dropout=0.0)
    found = []
    for compiled in (False, True):
        model = copy.deepcopy(net)
        rr = Racecar(model, x, checkpoint="both")
        output, penalty = torch.compile(rr, backend="eager")(x) if compiled else rr(x)
        (output.square().sum() + penalty).backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
