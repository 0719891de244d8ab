"""Task A: a super-resolution GAN (Section 5.3), the racecar loss on its generator alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar.study.core.variants import Variant
from racecar.study.smoke import network
from racecar.study.smoke.config import DEPTH, SmokeConfig
from racecar.study.smoke.frames import Frames, lowered, raised
from racecar.study.smoke.quality import quality, resemblance
from racecar.study.smoke.training import Training


def mirrored(
    generator: nn.Module, low: Tensor, weight: float, layers: int, decoder: nn.Module | None = None
) -> racecar.Racecar:
    """The generator with Table 13's reverse pass, its loss summed over the batch as the paper's λ need it."""
    return racecar.Racecar(
        generator, low, layers=layers, weight=weight, reduction="sum", input_range="paper", decoder=decoder
    )


class SuperResolution(Training):
    """Generator and discriminator in alternation.

    The generator's loss is ½ Σ of squared differences to the reference, plus ``adversarial_weight`` times the
    non-saturating cross entropy, plus Eq. 1 with Table 14's λ: all summed over the batch.
    """

    losses = ("content", "adversarial", "penalty", "discriminator")

    def __init__(
        self,
        variant: Variant,
        frames: Frames,
        config: SmokeConfig,
        seed: int,
        *,
        early: Callable[[dict[str, Tensor]], None] = lambda weights: None,
    ) -> None:
        size = frames.train.shape[-1]
        self.generator = config.initialised(network.generator(config.width), seed)
        self.discriminator = config.initialised(network.discriminator(config.discriminator_width, size), 20_000 + seed)
        networks: list[nn.Module] = [self.generator, self.discriminator]
        untied = variant.method.untied
        own = config.initialised(network.generator(config.width), 10_000 + seed) if untied else None
        for module in [*networks, *([own] if own is not None else [])]:
            module.to(frames.train.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.early = early
        self.mirror: racecar.Racecar | None = None
        if variant.depth:
            low = lowered(frames.train[: config.batch_size]).contiguous(memory_format=torch.channels_last)
            self.mirror = mirrored(self.generator, low, config.weight, variant.depth, own)
        parts = [self.generator, *([self.mirror.decoder] if self.mirror is not None and self.mirror.decoder else [])]
        rate = {"lr": config.learning_rate, "fused": True}
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Adam([p for part in parts for p in part.parameters()], **rate),  # type: ignore[arg-type]
            torch.optim.Adam(self.discriminator.parameters(), **rate),  # type: ignore[arg-type]
        ]
        super().__init__([*parts, self.discriminator], optimisers, frames, config, config.steps(variant), seed)

    def train_step(self, pictures: Tensor) -> list[Tensor]:
        """The discriminator's step, then the generator's; one pass of the generator serves both."""
        low = lowered(pictures)
        beside, count = raised(low), len(pictures)
        with self.autocast():
            output, penalty = self.mirror(low) if self.mirror is not None else (self.generator(low), low.new_zeros(()))
            real = self.discriminator(torch.cat([pictures, beside], 1)).float()
            fake = self.discriminator(torch.cat([output.detach().to(beside.dtype), beside], 1)).float()
        apart = F.softplus(-real).sum() + F.softplus(fake).sum()
        self.optimisers[1].zero_grad()
        apart.backward()
        self.optimisers[1].step()

        self.discriminator.requires_grad_(False)  # its gradients are not needed for the generator's
        with self.autocast():
            judged = self.discriminator(torch.cat([output, beside.to(output.dtype)], 1)).float()
        self.discriminator.requires_grad_(True)
        content = (output.float() - pictures).square().sum() / 2
        adversarial = F.softplus(-judged).sum()
        self.optimisers[0].zero_grad()
        (content + self.config.adversarial_weight * adversarial + penalty).backward()
        self.optimisers[0].step()
        if self.step + 1 == self.config.early_step:
            self.early(self.generator.state_dict())
        return [content / count, adversarial / count, penalty / count, apart / count]

    def measure(self) -> dict[str, float]:
        """Quality of the super-resolution; error and correlation of the regenerated low resolution."""
        low, output, regenerated = self.pictures(self.frames.test)
        return quality(output, self.frames.test) | {
            f"regeneration_{k}": v for k, v in resemblance(regenerated, low).items()
        }

    @torch.no_grad()
    def pictures(self, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(low resolution, high-resolution output, regenerated low resolution) of reference pictures."""
        return _shown(self._measured, self.generator, reference)

    @cached_property
    def _measured(self) -> racecar.Racecar:
        """Derived once: it reads the weights as they are."""
        decoder = self.mirror.decoder if self.mirror is not None else None
        return mirrored(self.generator, lowered(self.frames.test[:2]), 0.0, DEPTH, decoder)


@torch.no_grad()
def pictures(
    generator: nn.Module, reference: Tensor, decoder: nn.Module | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(low resolution, high-resolution output, regenerated low resolution) of references [n, 1, h, w] (Figure 8)."""
    return _shown(mirrored(generator, lowered(reference[:2]), 0.0, DEPTH, decoder), generator, reference)


def _shown(rr: racecar.Racecar, generator: nn.Module, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rr.train()  # no layer of the generator knows the mode, and the program of training is there
    parts = []
    for part in reference.split(50):
        low = lowered(part).contiguous(memory_format=torch.channels_last)
        original, regenerated = rr.reconstruct(low)[rr.layers[0]]
        parts.append((original, generator(low), regenerated))
    low, output, regenerated = (torch.cat(column) for column in zip(*parts, strict=True))
    return low, output, regenerated
