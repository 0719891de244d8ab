"""Racecar in the user's own GAN: gradients and steps against a hand-written one, and generators that people have."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import racecar

from .support import reference

PAGE = Path(__file__).parents[1] / "docs" / "adversarial.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
bce = F.binary_cross_entropy_with_logits


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_documented_example_runs(number: int) -> None:
    exec(compile(SNIPPETS[number], f"{PAGE.name}, example {number + 1}", "exec"), {"__name__": "docs"})


# --- Table 13's generator in a GAN, beside the same written by hand ---------------------------------------------------

LAMBDA = 0.1


class Gan:
    """Generator, discriminator and alternating steps; ``forward`` says where output and penalty come from."""

    def __init__(self, how: str) -> None:
        torch.manual_seed(11)
        self.g = reference.Generator(width=4, size=6).double()
        with torch.no_grad():  # keeps the last ReLU alive
            for conv in self.g.children():
                conv.weight.mul_(2)
                conv.bias.add_(0.1)
        self.d = nn.Sequential(
            nn.Conv2d(1, 4, 5, 4, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 36, 1)
        ).double()
        self.low = torch.randn(3, 1, 6, 6, dtype=torch.float64)
        self.high = torch.rand(3, 1, 24, 24, dtype=torch.float64)
        self.forward: Callable[[Tensor], tuple[Tensor, Tensor]] = {
            "racecar": lambda x: racecar.Racecar(self.g, x, weight=LAMBDA, reduction="sum")(x),
            "by hand": self.by_hand,
            "plain": lambda x: (self.g(x), torch.zeros((), dtype=x.dtype)),
        }[how]

    def by_hand(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pairs = self.g.pairs(x, reference.Norms(shared=False), paper_range=False)
        return self.g(x), reference.penalty(pairs, [LAMBDA] * 6, "sum")

    def loss_d(self, fake: Tensor) -> Tensor:
        real, wrong = self.d(self.high), self.d(fake.detach())
        return bce(real, torch.ones_like(real)) + bce(wrong, torch.zeros_like(wrong))

    def loss_g(self, fake: Tensor, penalty: Tensor) -> Tensor:
        score = self.d(fake)
        return bce(score, torch.ones_like(score)) + F.mse_loss(fake, self.high) + penalty

    def train(self, steps: int = 2) -> list[Tensor]:
        opt_g, opt_d = (torch.optim.Adam(m.parameters(), lr=1e-2) for m in (self.g, self.d))
        for _ in range(steps):
            fake, penalty = self.forward(self.low)
            opt_d.zero_grad()
            self.loss_d(fake).backward()
            opt_d.step()
            opt_g.zero_grad()
            self.loss_g(fake, penalty).backward()
            opt_g.step()
        return [*self.g.parameters(), *self.d.parameters()]


def grads(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters()]


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(left, right, strict=True))


def test_gradients_of_a_generator_step_are_those_written_by_hand() -> None:
    gans = {how: Gan(how) for how in ("racecar", "by hand", "plain")}
    for gan in gans.values():
        gan.loss_g(*gan.forward(gan.low)).backward()
    assert close(grads(gans["racecar"].g), grads(gans["by hand"].g))
    assert not close(grads(gans["racecar"].g), grads(gans["plain"].g))
    # the penalty is no matter of the discriminator's
    assert close(grads(gans["racecar"].d), grads(gans["plain"].d))


def test_a_discriminator_step_leaves_the_generator_alone() -> None:
    gan, plain = Gan("racecar"), Gan("plain")
    for each in (gan, plain):
        each.loss_d(each.forward(each.low)[0]).backward()
    assert grads(gan.g) == [None] * 12
    assert close(grads(gan.d), grads(plain.d))


def test_alternating_steps_end_where_those_by_hand_do() -> None:
    ours = Gan("racecar").train()
    assert close(ours, Gan("by hand").train())
    assert not close(ours, Gan("plain").train())


# --- generators that people have --------------------------------------------------------------------------------------


def dcgan(wrap: Callable[[nn.Module], nn.Module] = lambda m: m) -> nn.Module:
    return nn.Sequential(
        wrap(nn.ConvTranspose2d(100, 16, 4, 1, 0, bias=False)),
        nn.BatchNorm2d(16),
        nn.ReLU(True),
        wrap(nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False)),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        wrap(nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False)),
        nn.Tanh(),
    )


class Plus(nn.Module):
    """x + scale · body(x)."""

    def __init__(self, *body: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.body, self.scale = nn.Sequential(*body), scale

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return x + (out if self.scale == 1 else out * self.scale)


def conv(a: int, b: int, k: int = 3) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, 1, k // 2)


def srresnet(c: int = 6) -> nn.Module:
    block = lambda: Plus(conv(c, c), nn.BatchNorm2d(c), nn.PReLU(), conv(c, c), nn.BatchNorm2d(c))  # noqa: E731
    trunk = Plus(block(), block(), conv(c, c), nn.BatchNorm2d(c))
    up = (conv(c, 4 * c), nn.PixelShuffle(2), nn.PReLU())
    return nn.Sequential(conv(3, c, 9), nn.PReLU(), trunk, *up, conv(c, 3, 9), nn.Tanh())


class DenseBlock(nn.Module):
    def __init__(self, c: int = 6, growth: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(c + i * growth, growth if i < 2 else c) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.convs[:-1]:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2, inplace=True))
        return self.convs[-1](torch.cat(seen, 1)) * 0.2 + x


def esrgan(c: int = 6) -> nn.Module:
    trunk = Plus(Plus(DenseBlock(c), DenseBlock(c), scale=0.2), conv(c, c))
    up = (nn.Upsample(scale_factor=2), conv(c, c), nn.LeakyReLU(0.2, True))
    return nn.Sequential(conv(3, c), trunk, *up, conv(c, 3))


class Skip(nn.Module):
    """pix2pix's U-Net block: cat(x, up(…(down(x)))), as written in its repository, with in-place activations."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None) -> None:
        super().__init__()
        down = [nn.LeakyReLU(0.2, True), nn.Conv2d(outer, inner, 4, 2, 1)]
        up = [nn.ReLU(True), nn.ConvTranspose2d(inner * (1 if inside is None else 2), outer, 4, 2, 1)]
        middle = [] if inside is None else [nn.InstanceNorm2d(inner), inside]
        self.model = nn.Sequential(*down, *middle, *up, nn.InstanceNorm2d(outer), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


def pix2pix() -> nn.Module:
    inside = Skip(6, 8, Skip(8, 8, None))
    return nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), inside, nn.ReLU(True), nn.ConvTranspose2d(12, 3, 4, 2, 1), nn.Tanh())


def cyclegan() -> nn.Module:
    part = lambda: (nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8))  # noqa: E731
    head = (nn.ReflectionPad2d(3), nn.Conv2d(3, 6, 7), nn.InstanceNorm2d(6), nn.ReLU(True))
    down = (nn.Conv2d(6, 8, 3, 2, 1), nn.InstanceNorm2d(8), nn.ReLU(True), Plus(*part(), nn.ReLU(True), *part()))
    up = (nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(6), nn.ReLU(True))
    return nn.Sequential(*head, *down, *up, nn.ReflectionPad2d(3), nn.Conv2d(6, 3, 7), nn.Tanh())


def perceptron() -> nn.Module:
    hidden = (nn.Linear(10, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2, True))
    return nn.Sequential(*hidden, nn.Linear(16, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))


def bilinear() -> nn.Module:
    grow = lambda: nn.Upsample(scale_factor=2, mode="bilinear")  # noqa: E731
    return nn.Sequential(
        conv(3, 6), nn.LeakyReLU(0.2), grow(), conv(6, 4), nn.LeakyReLU(0.2), grow(), conv(4, 3), nn.Tanh()
    )


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(10, 6), nn.Linear(16, 128)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 4, 2, 1))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.up(self.fc(torch.cat([z, self.embedding(labels)], 1)).view(-1, 8, 4, 4))


class Reshaped(nn.Module):
    """latent → linear → view → upsampling → convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = nn.Linear(10, 128), conv(8, 3)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(F.interpolate(F.relu(self.fc(z)).view(-1, 8, 4, 4), scale_factor=2.0))


class SelfAttention(nn.Module):
    """SAGAN's: every place gets an average of all places, added with a gain."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.query, self.key, self.value = conv(c, 4, 1), conv(c, 4, 1), conv(c, c, 1)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(-1)
        return x + self.gain * (value @ weights.transpose(1, 2)).view_as(x)


class Modulated(nn.Module):
    """A batch norm whose gain and bias are computed from the condition, as BigGAN's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 3)
        self.norm, self.gain, self.bias = nn.BatchNorm2d(8, affine=False), nn.Linear(10, 8), nn.Linear(10, 8)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = (layer(condition)[:, :, None, None] for layer in (self.gain, self.bias))
        return self.last(torch.relu(self.norm(self.first(x)) * (1 + gain) + bias))


def images(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 16, 16),)


def latents(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 10),)


def maps(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 100, 1, 1),)


def labelled(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 10), torch.randint(10, (n,))


def conditioned(n: int) -> tuple[Tensor, ...]:
    return torch.randn(n, 3, 16, 16), torch.randn(n, 10)


# name → (generator, inputs, layers, shape of the regenerated input of one sample)
GENERATORS: dict[str, tuple[Callable[[], nn.Module], Any, Any, tuple[int, ...]]] = {
    "DCGAN": (dcgan, maps, None, (100, 1, 1)),
    "spectral norm": (lambda: dcgan(spectral_norm), maps, None, (100, 1, 1)),
    "SRResNet": (srresnet, images, None, (3, 16, 16)),
    "ESRGAN": (esrgan, images, None, (3, 16, 16)),
    "pix2pix": (pix2pix, images, None, (3, 16, 16)),
    "CycleGAN": (cyclegan, images, None, (3, 22, 22)),  # padded by reflection before its first layer
    "perceptron": (perceptron, latents, None, (10,)),
    "bilinear": (bilinear, images, None, (3, 16, 16)),
    "view, then upsampling": (Reshaped, latents, "all", (10,)),
    "conditional": (Conditional, labelled, "all", (16,)),  # latent and embedding
    "self-attention": (
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), SelfAttention(), conv(8, 3)),
        images,
        None,
        (3, 16, 16),
    ),
    "modulated norm": (Modulated, conditioned, None, (3, 16, 16)),
}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generator_is_mirrored(name: str, autocast: bool) -> None:
    torch.manual_seed(0)
    make, inputs, layers, shape = GENERATORS[name]
    model = make()
    rr = racecar.Racecar(model, inputs(4), layers=layers)
    x = inputs(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, penalty = rr(*x)
    assert output.shape[:2] == (3, 3)
    assert penalty.dtype == torch.float32
    assert torch.isfinite(penalty)
    penalty.backward()
    kinds = (nn.Conv2d, nn.ConvTranspose2d) if layers is None and name != "perceptron" else (nn.Module,)
    weights = [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters() if p.ndim > 1]
    assert len(weights) >= 2
    for p in weights:
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
        assert p.grad.abs().sum() > 0
    image, regenerated = next(iter(rr.reconstruct(*x).values()))
    assert image.shape == regenerated.shape == (3, *shape)


def test_dcgan_regenerates_the_latent_by_its_convolutions() -> None:
    torch.manual_seed(0)
    model, (z,) = dcgan().double(), tuple(t.double() for t in maps(3))
    (_, regenerated), *_ = racecar.Racecar(model, z).reconstruct(z).values()
    estimate = copy.deepcopy(model)(z)
    for at, norm, stride, padding in ((6, 4, 2, 1), (3, 1, 2, 1)):
        estimate = F.conv2d(estimate, model[at].weight, None, stride, padding)
        bn = model[norm]
        estimate = F.relu(F.batch_norm(estimate, None, None, bn.weight, bn.bias, True, 0.0, bn.eps))
    torch.testing.assert_close(regenerated, F.conv2d(estimate, model[0].weight), rtol=1e-9, atol=1e-9)


def test_a_view_before_upsampling_is_reversed_at_its_own_size() -> None:
    torch.manual_seed(0)
    model, (z,) = Reshaped().double(), tuple(t.double() for t in latents(3))
    pairs = list(racecar.Racecar(model, z, layers="all").reconstruct(z).values())
    estimate = F.conv_transpose2d(model(z) - model.conv.bias.view(1, -1, 1, 1), model.conv.weight, padding=1)
    small = F.relu(F.max_pool2d(estimate, 2).flatten(1))  # the range of the layer before the view
    torch.testing.assert_close(pairs[1][1], F.interpolate(small.view(-1, 8, 4, 4), scale_factor=2.0))
    torch.testing.assert_close(pairs[0][1], (small - model.fc.bias) @ model.fc.weight)


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + 1e-8)


def test_a_pixel_norm_spelled_out_is_a_norm() -> None:
    """Nothing on the way back; the estimate of its output is normalised alike (a GAN's generator may hold it)."""
    torch.manual_seed(0)
    model, x = nn.Sequential(conv(3, 4), PixelNorm(), conv(4, 3)).double(), images(4)[0].double()
    pairs = list(racecar.Racecar(model, x, layers="all").reconstruct(x).values())
    back = F.conv_transpose2d(model(x) - model[2].bias.view(1, -1, 1, 1), model[2].weight, padding=1)
    torch.testing.assert_close(pairs[1][1], PixelNorm()(back))
    first = F.conv_transpose2d(PixelNorm()(back) - model[0].bias.view(1, -1, 1, 1), model[0].weight, padding=1)
    torch.testing.assert_close(pairs[0][1], first)


# --- around it --------------------------------------------------------------------------------------------------------


def test_a_scaled_half_precision_step_has_the_gradients_of_single_precision() -> None:
    torch.manual_seed(0)
    model = bilinear()
    rr, (x,) = racecar.Racecar(model, images(4)), images(4)
    rr(x)[1].backward()
    single = [g.clone() for g in grads(model)]
    model.zero_grad()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.0), torch.amp.GradScaler("cpu", init_scale=256.0)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = rr(x)[1]
    scaler.scale(penalty).backward()
    scaler.unscale_(optimizer)
    half, full = (torch.cat([g.flatten() for g in part]) for part in (grads(model), single))
    # Some 25 operations forth, back and differentiated, each rounded to 8 bits, by 2^-8 at most.
    assert float((half - full).norm()) <= 0.1 * float(full.norm())


def test_an_average_of_the_generator_is_plain() -> None:
    model = dcgan()
    rr, (z,) = racecar.Racecar(model, maps(4)), maps(4)
    average = torch.optim.swa_utils.AveragedModel(model)
    rr(z)[1].backward()
    average.update_parameters(model)
    assert average.module.state_dict().keys() == dcgan().state_dict().keys()
    assert average(z).shape == (4, 3, 16, 16)
