"""Every operation that has a rule, between two layers: derived, the model's own output, a penalty that trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar

INDEX = torch.tensor([[0, 3, 1], [2, 2, 5], [1, 0, 4], [5, 4, 3]])
BIG = torch.ones(6, 5)


def assigned(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, torch.tensor([1, 2])] = h[:, 3:5]
    return h


def filled(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1:3] = 0.0
    h[:, 4].zero_()
    return h


def unpooled(h: Tensor) -> Tensor:
    values, indices = F.max_pool2d(h, 2, return_indices=True)
    return F.max_unpool2d(values, indices, 2)


def sampled(h: Tensor) -> Tensor:
    theta = torch.tensor([[0.8, 0.1, 0.0], [0.0, 1.1, 0.2]]).expand(h.shape[0], 2, 3)
    return F.grid_sample(h, F.affine_grid(theta, list(h.shape), align_corners=False), align_corners=False)


# What stands between the layers, on (4, 6).
VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "glu": F.glu,
    "where": lambda h: torch.where(INDEX.repeat(1, 2) > 2, h, 0.0),
    "masked_fill": lambda h: h.masked_fill(torch.tensor([True, False] * 3), 0.5),
    "gather": lambda h: h.gather(1, INDEX),
    "take_along_dim": lambda h: torch.take_along_dim(h, INDEX, 1),
    "take": lambda h: torch.take(h, INDEX),
    "scatter": lambda h: h.scatter(1, INDEX, h[:, :3]),
    "scatter of a number": lambda h: h.scatter(1, INDEX, 0.5),
    "scatter_add": lambda h: torch.zeros(4, 6).scatter_add(1, INDEX, h[:, :3]),
    "scatter_add in place": lambda h: torch.zeros_like(h).scatter_add_(1, INDEX, h[:, :3]),
    "scatter_reduce": lambda h: torch.zeros(4, 6).scatter_reduce(1, INDEX, h[:, :3], "mean"),
    "index_put": lambda h: h.index_put((torch.tensor([0, 1]),), torch.zeros(6)),
    "index_put in place": assigned,
    "filled in place": filled,
    "index_put, summed": lambda h: torch.zeros(3, 6).index_put((torch.tensor([0, 1, 1, 2]),), h, accumulate=True),
    "index_add": lambda h: torch.zeros(3, 6).index_add(0, torch.tensor([0, 1, 1, 2]), h),
    "index_copy": lambda h: torch.zeros(4, 6).index_copy(0, torch.tensor([3, 1, 0, 2]), h),
    "index_fill": lambda h: h.index_fill(1, torch.tensor([0, 3]), 0.5),
    "masked_scatter": lambda h: torch.zeros(4, 6).masked_scatter(INDEX.repeat(1, 2) > 2, h),
    "sort": lambda h: h.sort(1).values,
    "topk": lambda h: h.topk(3, 1)[0],
    "type of another": lambda h: torch.full((6,), 0.5).type_as(h).expand_as(h) + h.view_as(h),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1),
    "repeat_interleave by numbers": lambda h: h.repeat_interleave(torch.tensor([1, 2, 0, 1, 1, 3]), 1),
    "tile": lambda h: h.tile(1, 2),
    "maximum": lambda h: torch.maximum(h, h.flip(1)),
    "lerp": lambda h: torch.lerp(h, h.flip(1), 0.3),
    "addcdiv": lambda h: torch.addcdiv(torch.ones(6), h, torch.full((6,), 2.0), value=0.5),
    "addcmul": lambda h: torch.addcmul(h, h.flip(1), torch.full((6,), 2.0), value=0.5),
    "cumsum": lambda h: h.cumsum(1),
    "logsumexp": lambda h: h.logsumexp(1, keepdim=True),
    "mean": lambda h: h.mean()[None],
    "sum": lambda h: h.sum()[None],
    "bilinear": lambda h: F.bilinear(h, torch.ones(4, 2), torch.ones(5, 6, 2) / 9, torch.zeros(5)),
    "bilinear of one value": lambda h: F.bilinear(h, h, torch.ones(5, 6, 6) / 9),
    "tensordot": lambda h: torch.tensordot(h, BIG, 1),
    "mv": lambda h: torch.mv(h, torch.ones(6))[:, None],
    "fft": lambda h: torch.fft.fft(h).real,
    "rfft and back": lambda h: torch.fft.irfft(torch.fft.rfft(h)[:, :2], n=6),
    "ifftn": lambda h: torch.fft.ifftn(h, norm="ortho").imag,
    "complex": lambda h: torch.view_as_real(torch.complex(h, -h) * 2j).flatten(1),
    "modulus": lambda h: torch.complex(h, h.flip(1)).abs(),
    "straight through": lambda h: h + (torch.round(h) - h).detach(),
    "tril": torch.tril,
    "diagonal": lambda h: h.diagonal(),
    "hstack": lambda h: torch.hstack((h, h)),
    "std": lambda h: h.std(1, keepdim=True),
    "var": lambda h: h.var()[None],
    "norm": lambda h: h.norm(dim=1, keepdim=True),
    "norm over a constant": lambda h: h / h.norm(p=1) * 2,
    "median": lambda h: h.median(1, keepdim=True)[0],
    "k-th value": lambda h: h.kthvalue(2, 1, keepdim=True).values,
    "the larger half of everything": lambda h: h * F.one_hot(h.argmax(1), 6),
    "addbmm": lambda h: torch.addbmm(torch.zeros(3, 5), h.reshape(4, 3, 2), torch.ones(4, 2, 5)),
    "addmv": lambda h: torch.addmv(torch.zeros(4), h, torch.ones(6))[:, None],
    "dot": lambda h: torch.dot(h[:, 0], torch.ones(4))[None],
    "outer": lambda h: torch.outer(h[:, 0], torch.ones(3)),
    "inner": lambda h: torch.inner(h, torch.ones(3, 6)),
    "pairwise distance": lambda h: F.pairwise_distance(h, torch.ones(6))[:, None],
    "diag_embed": torch.diag_embed,
    "einsum of one": lambda h: torch.einsum("ab->ba", h),
    "einsum of three": lambda h: torch.einsum("ij,jk,kl->il", h, torch.ones(6, 2) / 6, torch.ones(2, 4) / 2),
    "einsum, rest implied": lambda h: torch.einsum("...i,ij->...j", h, torch.ones(6, 2) / 6),
    "stft": lambda h: torch.stft(h, 4, 2, window=torch.hann_window(4), return_complex=True).abs().flatten(1),
    "istft": lambda h: torch.istft(torch.complex(h, -h).reshape(2, 3, 4), 4, 2, window=torch.hann_window(4)),
    "power pooling": nn.LPPool1d(2, 2),
    "chosen by a mask": lambda h: h[h > 0.5].mean()[None],
}

# The same on (2, 4, 6, 6).
IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "channel_shuffle": lambda h: F.channel_shuffle(h, 2),
    "exact nearest": lambda h: F.interpolate(h, size=(9, 7), mode="nearest-exact"),
    "antialiased bilinear": lambda h: F.interpolate(h, size=(3, 9), mode="bilinear", antialias=True),
    "antialiased bicubic": lambda h: F.interpolate(h, size=(3, 9), mode="bicubic", antialias=True),
    "grid_sample": sampled,
    "max_unpool2d": unpooled,
    "fractional pooling": nn.FractionalMaxPool2d(2, output_size=3),
    "fft2": lambda h: torch.fft.fft2(h, norm="ortho").real,
    "rfftn": lambda h: torch.view_as_real(torch.fft.rfftn(h, dim=(-2, -1))).flatten(-2),
    "power pooling in 2-d": nn.LPPool2d(3, 2),
    "baddbmm": lambda h: torch.baddbmm(torch.zeros(1), h.flatten(0, 1), torch.ones(8, 6, 5) / 9),
}


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.function = nn.Linear(6, 6), function
        self.b = nn.Linear(function(self.a(x)).shape[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(torch.sigmoid(self.a(x))))


@pytest.mark.parametrize("name", [*VECTORS, *IMAGES])
def test_between_two_layers(name: str) -> None:
    x = torch.randn((4, 6) if name in VECTORS else (2, 4, 6, 6), generator=torch.Generator().manual_seed(0))
    net = Between(VECTORS.get(name) or IMAGES[name], x)
    rr = racecar.Racecar(net, x, layers="all")
    assert {"a", "b"} <= set(rr.layers)
    torch.manual_seed(1)
    output, penalty = rr(x)
    torch.manual_seed(1)
    assert torch.equal(output, net(x))
    penalty.backward()
    assert penalty.isfinite()
    assert net.a.weight.grad is not None
    assert net.a.weight.grad.isfinite().all()
    assert net.a.weight.grad.abs().sum() > 0
