"""Fourier transforms: their inverses, which for norm="ortho" are the adjoints too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule
from racecar.rules.fourier import FOURIER

aten = torch.ops.aten
NORMS = [None, "ortho", "forward", "backward"]

REAL = {aten.fft_rfft.default, aten.fft_rfft2.default, aten.fft_rfftn.default, aten.fft_ihfft.default}
HALF = {aten.fft_irfft.default, aten.fft_irfft2.default, aten.fft_irfftn.default, aten.fft_hfft.default}
OF_ONE = {op for op in FOURIER if str(op).split(".")[1][-1] not in "2n"}


def signal(op: Any, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64 if op in REAL else torch.complex128)


def back(op: Any, estimate: Tensor, *args: Any) -> Tensor:
    rule = find_rule(op)
    assert rule is not None
    return rule.reverse(estimate, *args)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("op", FOURIER, ids=str)
def test_the_transform_is_undone(op: Any, size: int, norm: str | None) -> None:
    x = signal(op, 2, 4, size)
    if op in HALF:  # of what is no spectrum of a real signal, the part that is: what is transformed is its own
        y = op(x, *((2 * size - 2,) if op in OF_ONE else (None,)), *((-1,) if op in OF_ONE else ([-1],)), norm)
        args = (x, 2 * size - 2, -1, norm) if op in OF_ONE else (x, None, [-1], norm)
        torch.testing.assert_close(op(back(op, y, *args), *args[1:]), y)
        return
    for dim in (-1, 1) if op in OF_ONE else ([-2, -1], [1]):
        args = (x, None, dim, norm)
        found = back(op, op(*args), *args)
        assert found.dtype == x.dtype
        torch.testing.assert_close(found, x)
    torch.testing.assert_close(back(op, op(x), x), x)


@pytest.mark.parametrize("op", [op for op in FOURIER if op not in HALF | REAL], ids=str)
def test_a_unitary_transform_is_undone_by_its_adjoint(op: Any) -> None:
    x = signal(op, 2, 4, 6)
    rest = (None, -1 if op in OF_ONE else [-2, -1], "ortho")
    y = torch.randn_like(op(x, *rest))
    (adjoint,) = torch.func.vjp(lambda t: op(t, *rest), x)[1](y)
    torch.testing.assert_close(back(op, y, x, *rest), adjoint)


@pytest.mark.parametrize("op", [aten.fft_fft.default, aten.fft_ifft.default, aten.fft_rfft.default], ids=str)
@pytest.mark.parametrize("n", [4, 5, 8, 9])
def test_a_signal_that_was_cut_or_padded_comes_back_at_its_size(op: Any, n: int) -> None:
    x = signal(op, 3, 6)
    found = back(op, op(x, n), x, n)
    kept = torch.zeros_like(x)
    kept[:, :n] = x[:, :n]
    torch.testing.assert_close(found, kept)
    rule = find_rule(op)
    assert rule is not None
    assert rule.informs is not None
    known = rule.informs(torch.ones_like(op(x, n)), x, n) != 0
    assert known.tolist() == [[i < n for i in range(6)]] * 3


@pytest.mark.parametrize("op", [aten.fft_fftshift.default, aten.fft_ifftshift.default], ids=str)
@pytest.mark.parametrize("dim", [None, [0], [-1, 0]])
def test_shifts(op: Any, dim: list[int] | None) -> None:
    x = torch.randn(5, 4, 7)
    assert torch.equal(back(op, op(x, dim), x, dim), x)


class Mixing(nn.Module):
    """Tokens mixed by a Fourier transform in place of attention (FNet), or by its lowest frequencies (FNO)."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.mix = nn.Linear(4, 6), nn.Linear(6, 3), mix
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.mix(self.a(x)))


def regenerated(net: Mixing, x: Tensor) -> tuple[Tensor, Tensor]:
    """(the estimate of what the mixing returned, that of the first layer's input)."""
    rr = racecar.Racecar(net, x, layers="all")
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    (gradient,) = torch.autograd.grad(penalty, [net.a.weight])
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    return (output - net.b.bias) @ net.b.weight, rr.reconstruct(x)["a"][1]


def test_of_a_real_part_the_imaginary_one_is_the_forward_pass_own() -> None:
    net, x = Mixing(lambda h: torch.fft.fft2(h).real), torch.randn(2, 5, 4, dtype=torch.float64)
    estimate, right = regenerated(net, x)
    hidden = torch.fft.ifft2(torch.complex(estimate, torch.fft.fft2(net.a(x)).imag)).real
    torch.testing.assert_close(right, (hidden - net.a.bias) @ net.a.weight)


def test_real_and_imaginary_parts_come_back_together() -> None:
    def both(h: Tensor) -> Tensor:
        z = torch.fft.rfft(h, dim=1, norm="ortho")
        return torch.cat((z.real, z.imag), 1)

    net, x = Mixing(both), torch.randn(2, 5, 4, dtype=torch.float64)
    estimate, right = regenerated(net, x)
    hidden = torch.fft.irfft(torch.complex(estimate[:, :3], estimate[:, 3:]), 5, dim=1, norm="ortho")
    torch.testing.assert_close(right, (hidden - net.a.bias) @ net.a.weight)


class Spectral(nn.Module):
    """A spectral convolution: complex weights on the lowest frequencies, the others dropped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 6, 2, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        z = torch.fft.rfft(x, dim=1)
        out = torch.zeros_like(z)
        out[:, :2] = torch.einsum("bki,iok->bko", z[:, :2], self.weight)
        return torch.fft.irfft(out, n=x.shape[1], dim=1)


def test_a_spectral_convolution() -> None:
    spectral = Spectral()
    net, x = Mixing(spectral), torch.randn(2, 7, 4, dtype=torch.float64)
    estimate, right = regenerated(net, x)
    z = torch.fft.rfft(estimate, dim=1)
    low = torch.zeros_like(z)
    low[:, :2] = torch.einsum("bko,iok->bki", z[:, :2], spectral.weight.conj())
    hidden = torch.fft.irfft(low, 7, dim=1)
    torch.testing.assert_close(right, (hidden - net.a.bias) @ net.a.weight)


def test_a_modulus_keeps_its_forward_phase() -> None:
    net, x = Mixing(lambda h: torch.fft.rfft(h, dim=1).abs()), torch.randn(2, 5, 4, dtype=torch.float64)
    estimate, right = regenerated(net, x)
    phase = torch.fft.rfft(net.a(x), dim=1).sgn()
    hidden = torch.fft.irfft(estimate * phase, 5, dim=1)
    torch.testing.assert_close(right, (hidden - net.a.bias) @ net.a.weight)
