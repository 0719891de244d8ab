"""Short-time Fourier transforms: each is the other's reverse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar
from racecar.rules import find_rule
from racecar.rules.spectrogram import istft

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore:A window was not provided")
WINDOW = torch.hann_window(8, dtype=torch.float64)
CALLS: dict[str, dict[str, Any]] = {
    "plain": {"hop_length": 2},
    "window": {"hop_length": 2, "window": WINDOW},
    "short window": {"hop_length": 2, "win_length": 6, "window": WINDOW[1:7]},
    "normalised": {"hop_length": 4, "window": WINDOW, "normalized": True},
    "both sides": {"hop_length": 4, "window": WINDOW, "onesided": False},
}


def signal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CALLS)
def test_the_reverse_of_a_transform_is_its_inverse(name: str) -> None:
    x = signal(2, 24)
    spectrum = aten.stft.default(x, 8, **CALLS[name], return_complex=True)
    rule = find_rule(aten.stft.default)
    assert rule is not None
    other = signal(3, 24)[1:]  # what no window shows stays as it was
    back = rule.reverse(aten.stft.default(other, 8, **CALLS[name], return_complex=True), x, 8, **CALLS[name])
    shown = (back - other).abs() < 1e-9
    assert torch.equal(back[~shown], x[~shown])
    assert shown.double().mean() > 0.7
    assert torch.allclose(rule.reverse(spectrum, x, 8, **CALLS[name]), x)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("length", [None, 20])
def test_the_inverse_without_its_look_at_values_is_torchs(name: str, length: int | None) -> None:
    spectrum = torch.stft(signal(2, 24), 8, **CALLS[name], return_complex=True)
    expected = torch.istft(spectrum, 8, **CALLS[name], length=length)
    assert torch.equal(istft(spectrum, 8, **CALLS[name], length=length), expected)
    assert torch.equal(istft(spectrum[0], 8, **CALLS[name], length=length), expected[0])


@pytest.mark.parametrize("name", CALLS)
def test_the_reverse_of_the_inverse_is_a_spectrum_of_the_estimate(name: str) -> None:
    spectrum = torch.stft(signal(2, 24), 8, **CALLS[name], return_complex=True)
    estimate = signal(3, 24)[1:]
    rule = find_rule(istft)
    assert rule is not None
    back = rule.reverse(estimate, spectrum, 8, **CALLS[name])
    assert back.shape == spectrum.shape
    torch.testing.assert_close(torch.istft(back, 8, **CALLS[name]), estimate)


class Spectral(nn.Module):
    """A mask on the spectrum, as in source separation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 2, 3)
        self.register_buffer("window", WINDOW.float())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).squeeze(1)
        spectrum = torch.stft(h, 8, 2, window=self.window, return_complex=True)
        return self.b(torch.istft(spectrum * 0.5, 8, 2, window=self.window).unsqueeze(1))


def test_a_network_that_goes_to_frequencies_and_back() -> None:
    torch.manual_seed(0)
    net, x = Spectral(), torch.randn(3, 1, 24)
    rr = racecar.Racecar(net, x)
    output, penalty = rr(x)
    assert torch.equal(output, net(x))
    _, back = rr.reconstruct(x)["b"]
    assert back.isfinite().all()
    # Halved forwards, so halved once more on the way back: the adjoint of the mask.
    raw = nn.functional.conv_transpose1d(output - net.b.bias[:, None], net.b.weight)
    expected = nn.functional.conv_transpose1d(raw * 0.5 - net.a.bias[:, None], net.a.weight, padding=1)
    torch.testing.assert_close(rr.reconstruct(x)["a"][1], expected, rtol=1e-3, atol=1e-4)
    penalty.backward()
    assert net.a.weight.grad is not None
