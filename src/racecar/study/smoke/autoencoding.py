"""Tasks B1 and B2: auto-encoders whose decoder continues from task A's generator, or starts anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames
from racecar.study.smoke.network import AutoEncoder
from racecar.study.smoke.quality import quality
from racecar.study.smoke.training import Training


class AutoEncoding(Training):
    """An auto-encoder in plain training: ½ Σ of squared differences, Adam.

    Args:
        source: the generator's weights; None: from scratch.
        frames: pictures.
        config: hyper-parameters.
        seed: of the run; encoders of all variants start alike.
        leaky: see :class:`.network.AutoEncoder`.
    """

    losses = ("loss",)

    def __init__(
        self, source: dict[str, Tensor] | None, frames: Frames, config: SmokeConfig, seed: int, leaky: bool = False
    ) -> None:
        model = config.initialised(AutoEncoder(config.width, frames.train.shape[1], leaky), seed)
        self.reused = model.reuse(source) if source is not None else []
        self.model: nn.Module = model
        self.model.to(frames.train.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.Adam(self.model.parameters(), config.learning_rate, fused=True)
        super().__init__([self.model], [optimiser], frames, config, config.steps_b, seed)

    def train_step(self, pictures: Tensor) -> list[Tensor]:
        """One step of Adam."""
        with self.autocast():
            output = self.model(pictures)
        loss = (output.float() - pictures).square().sum() / 2
        self.optimisers[0].zero_grad()
        loss.backward()
        self.optimisers[0].step()
        return [loss / len(pictures)]

    def measure(self) -> dict[str, float]:
        """Quality of the decoded test pictures."""
        return quality(decoded(self.model, self.frames.test), self.frames.test)


@torch.no_grad()
def decoded(model: nn.Module, pictures: Tensor) -> Tensor:
    """[n, C, h, w] through an auto-encoder."""
    parts = [model(p.contiguous(memory_format=torch.channels_last)) for p in pictures.split(50)]
    return torch.cat(parts)
