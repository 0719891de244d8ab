"""The proof of a derivation finds what differs in any gradient, and never holds the gradients of all weights."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.forward.beside.sketch import sketch


class Changed(torch.autograd.Function):
    """The identity, whose backward pass changes the gradient: what the exported graph cannot know."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.change(gradient), None


class Net(nn.Module):
    """Two layers; the gradient of the first one's weight is changed."""

    def __init__(self, change: Callable[[Tensor], Tensor], width: int = 100) -> None:
        super().__init__()
        self.a, self.b, self.change = nn.Linear(width, width), nn.Linear(width, width), change

    def forward(self, x: Tensor) -> Tensor:
        weight = Changed.apply(self.a.weight, self.change)
        return self.b(torch.tanh(nn.functional.linear(x, weight, self.a.bias)))


def one_entry(gradient: Tensor) -> Tensor:
    changed = gradient.clone()
    changed[57, 3] += 0.01 * gradient.abs().max()
    return changed


def two_that_cancel(gradient: Tensor) -> Tensor:
    changed = gradient.clone()
    changed[57, 3] += 0.01 * gradient.abs().max()
    changed[57, 4] -= 0.01 * gradient.abs().max()
    return changed


DIFFERENT: dict[str, Callable[[Tensor], Tensor]] = {
    "one entry": one_entry,
    "two entries that cancel": two_that_cancel,
    "the sign": lambda gradient: -gradient,
    "the order": lambda gradient: gradient.flip(0),
    "the last entries": lambda gradient: torch.cat([gradient[:-1], 1.5 * gradient[-1:]]),
    "infinite": lambda gradient: gradient / 0,
    "no number": lambda gradient: gradient * torch.nan,
    "nothing": torch.zeros_like,
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_any_difference_is_found(case: str) -> None:
    torch.manual_seed(0)
    net = Net(DIFFERENT[case])
    with pytest.raises(racecar.ExportError, match=r"the gradient of 'a\.weight' differs"):
        racecar.Racecar(net, torch.randn(8, 100))


def test_many_small_differences_are_none() -> None:
    """Each entry is within the tolerance, and is looked at itself where sums of many are not."""
    torch.manual_seed(0)
    noise = torch.randint(2, (100, 100)).float() - 0.5

    def change(gradient: Tensor) -> Tensor:
        return gradient + 2e-3 * noise * gradient.abs().max()

    assert racecar.Racecar(Net(change), torch.randn(8, 100)).layers == ("linear", "b")


def test_the_parameters_are_left_alone() -> None:
    torch.manual_seed(0)
    net, heard = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), list[str]()
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: heard.append("accumulated"))
    racecar.Racecar(net, torch.randn(5, 4))
    assert not heard
    assert all(p.grad is None and p._backward_hooks is None for p in net.parameters())
    net(torch.randn(5, 4)).sum().backward()
    assert len(heard) == 4


def test_a_proof_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """RuntimeErrors of a backward pass are the model's, but for this one."""

    def fails(gradient: Tensor) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("racecar.forward.beside.rehearsal.sketch", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        racecar.Racecar(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_a_sketch_is_far_smaller_and_tells_what_it_must(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a = torch.randn(1000, 1234, dtype=dtype)
    b = a.clone()
    b[17, 5] += 8
    whole = torch.view_as_real(a) if a.is_complex() else a
    assert sketch(a).sums.numel() * 8 < a.numel() * a.element_size() / 50
    assert sketch(a).largest == float(whole.abs().max())
    assert not sketch(a).may_differ(sketch(a.clone()), 0.0)
    assert sketch(a).may_differ(sketch(b), 7.9)
    assert not sketch(a).may_differ(sketch(b), 33.0)
    assert sketch(torch.zeros_like(a)).zero()
    assert not sketch(a).zero()


def test_what_is_not_finite_is_compared_by_its_kind() -> None:
    a = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    a[17] = torch.inf
    b = a.clone()
    assert not sketch(a).may_differ(sketch(b), 0.0)
    assert not sketch(a).zero()
    assert sketch(a).largest == float(a[a.isfinite()].abs().max())
    for kind in (torch.nan, -torch.inf, 3.0):
        b[17] = kind
        assert sketch(a).may_differ(sketch(b), 1e30)
    b[17], b[18] = a[18], a[17]  # elsewhere
    assert sketch(a).may_differ(sketch(b), 1e30)


PEAK = """
import torch, racecar
from torch import nn

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

torch.manual_seed(0)
small, large = (nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(n, n), nn.Tanh())]) for n in (8, 1536))
racecar.Racecar(small, torch.randn(2, 8))  # imports what it needs
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
racecar.Racecar(large, torch.randn(2, 1536))
print((status("VmHWM") - before) / sum(4 * p.numel() for p in large.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_no_copy_of_the_weights_is_held() -> None:
    ran = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    # Twelve weights: a gradient or two, a piece of one in double precision, and what a derivation needs anyway.
    assert float(ran.stdout) < 0.5
