"""L_total = η L_content + δ L_style by L-BFGS over the pixels (Gatys et al. 2016); stops and goes on at any step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from racecar.study.classification.batches import Normalisation
from racecar.study.core.callbacks import QUIET, Callbacks, Timer
from racecar.study.core.checkpoints import Progress
from racecar.study.core.counts import at_least_one
from racecar.study.core.errors import StudyError
from racecar.study.stylize.features import Extractor
from racecar.study.stylize.losses import content_loss, gram, style_loss

STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
CONTENT_LAYERS = ("conv4_2",)


@dataclass(frozen=True)
class Settings:
    """What can be chosen for one stylized picture.

    Attributes:
        content_weight: η; 0 for the style loss alone.
        style_weight: δ.
        content_layers: of Eq. 3, summed.
        style_layers: of Eq. 4, each with ω = 1 / their number.
        steps: of L-BFGS.
        start: from the content picture or from noise.
        seed: of the noise.
        features: ``"unit"`` divides every layer by its mean absolute activation on the two pictures, so that η and δ
            mean the same for every network (Gatys et al. scale VGG's weights to a mean activation of 1 for the same
            reason); ``"raw"``: as the network gives them.
        pooling: see :class:`.features.Extractor`.
        history: pairs that L-BFGS remembers, each of two pictures' size.
    """

    content_weight: float = 1.0
    style_weight: float = 1e5
    content_layers: tuple[str, ...] = CONTENT_LAYERS
    style_layers: tuple[str, ...] = STYLE_LAYERS
    steps: int = 300
    start: Literal["content", "noise"] = "content"
    seed: int = 0
    features: Literal["unit", "raw"] = "unit"
    pooling: Literal["max", "avg"] = "max"
    history: int = 20

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "history")
        for name in ("content_weight", "style_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not self.content_weight and not self.style_weight:
            raise ValueError("content_weight and style_weight are both 0: there is nothing to do")
        if not self.style_layers or (self.content_weight and not self.content_layers):
            raise ValueError("name at least one layer for the style and, unless content_weight is 0, for the content")


@dataclass(frozen=True)
class Losses:
    """The losses of one step, before the weights η and δ.

    Attributes:
        content: L_content of Eq. 3; 0 where η is.
        style: L_style of Eq. 4.
    """

    content: float
    style: float


class Stylization:
    """A picture in the making.

    Args:
        network: any with the named layers; it stays as it is.
        content, style: [1, 3, h, w] between 0 and 1, on the network's device.
        normalisation: of what the network sees.
        settings: see there.

    Raises:
        StudyError: a layer is missing, or a picture is too small for it.
    """

    def __init__(
        self, network: nn.Module, content: Tensor, style: Tensor, normalisation: Normalisation, settings: Settings
    ) -> None:
        self.settings = settings
        layers = settings.content_layers if settings.content_weight else ()
        self.extract = Extractor(network, [*settings.style_layers, *layers], settings.pooling)
        shape = (1, 3, 1, 1)
        self.mean = content.new_tensor(normalisation.mean).view(shape)
        self.std = content.new_tensor(normalisation.std).view(shape)
        p, a = ((t - self.mean) / self.std for t in (content, style))
        with torch.no_grad():
            of_content, of_style = self.extract(p), self.extract(a)
            if flat := [t for t, f in of_style.items() if f.ndim != 4]:
                raise StudyError(
                    f"{', '.join(flat)} has no filters at positions: choose convolutions or what follows them"
                )
            self.scale = dict.fromkeys(of_style, 1.0)
            if settings.features == "unit":
                for t in of_style:
                    size = float((of_content[t].abs().mean() + of_style[t].abs().mean()) / 2)
                    self.scale[t] = 1 / size if size > 0 else 1.0
            self.content = {t: of_content[t] * self.scale[t] for t in layers}
            self.style = {t: gram(of_style[t] * self.scale[t]) for t in settings.style_layers}
        self.weights = {t: 1 / len(settings.style_layers) for t in settings.style_layers}
        if settings.start == "content":
            first = p.clone(memory_format=torch.contiguous_format)
        else:
            draw = torch.Generator().manual_seed(settings.seed)
            first = torch.randn(p.shape, generator=draw).to(p)
        self.pixels = first.requires_grad_(True)  # normalised; not clipped before the end
        self.optimiser = torch.optim.LBFGS(
            [self.pixels],
            max_iter=1,
            max_eval=26,  # one evaluation and a line search, for which the default would leave none
            tolerance_grad=0,
            tolerance_change=0,
            history_size=settings.history,
            line_search_fn="strong_wolfe",
        )
        self.step = 0
        self.history: list[Losses] = []

    @property
    def picture(self) -> Tensor:
        """[1, 3, h, w] between 0 and 1, clipped."""
        return (self.pixels.detach() * self.std + self.mean).clamp(0, 1)

    def losses(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(L_content, L_style) of a normalised picture."""
        features = {t: f * self.scale[t] for t, f in self.extract(pixels).items()}
        content = [content_loss(p, features[t]) for t, p in self.content.items()]
        return sum(content, pixels.new_zeros(())), style_loss(self.style, features, self.weights)

    def run(self, callbacks: Callbacks = QUIET) -> bool:
        """Optimise the picture to the last step.

        Args:
            callbacks: ``advance`` is told of steps; ``note`` of the :class:`Losses` of every step.

        Returns:
            Whether it is finished.

        Raises:
            StudyError: a loss is not finite, or there is not enough memory.
        """
        timer = Timer(callbacks.save_every)
        while self.step < self.settings.steps:
            before = self.pixels.detach().clone()
            try:
                self.optimiser.step(self._closure)  # type: ignore[arg-type]
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                    height, width = self.pixels.shape[2:]
                    raise StudyError(
                        f"not enough memory for {width} × {height} pixels: choose a smaller --size"
                    ) from error
                raise
            self.step += 1
            last = self.history[-1]
            if not math.isfinite(last.content + last.style) or not bool(self.pixels.detach().isfinite().all()):
                raise StudyError(
                    f"the loss is not finite at step {self.step}: lower --style-weight or --content-weight"
                )
            if torch.equal(before, self.pixels.detach()):
                self.optimiser.state.clear()  # no way down from what it remembers: it begins with the gradient again
            callbacks.advance(1)
            callbacks.note(last)
            stopped = callbacks.stop() and self.step < self.settings.steps
            if stopped or timer.due:
                callbacks.save(self.state())
                timer.restart()
            if stopped:
                return False
        return True

    def _closure(self) -> Tensor:
        self.optimiser.zero_grad()
        content, style = self.losses(self.pixels)
        total = self.settings.content_weight * content + self.settings.style_weight * style
        total.backward()
        if len(self.history) <= self.step:  # the first evaluation of a step is where the last one has led
            self.history.append(Losses(float(content.detach()), float(style.detach())))
        return total

    # --- saved states -------------------------------------------------------------------------------------------------

    def state(self) -> Progress:
        """Everything needed to go on from here."""
        tensors, plain = {"pixels": self.pixels.detach().clone()}, {}
        for name, value in self.optimiser.state[self.pixels].items():
            if isinstance(value, Tensor):
                tensors[f"lbfgs.{name}"] = value.clone()
            elif isinstance(value, list):
                plain[f"{name}.length"] = len(value)
                tensors |= {f"lbfgs.{name}.{i}": v.clone() for i, v in enumerate(value) if isinstance(v, Tensor)}
            else:
                plain[name] = value
        history = [[h.content, h.style] for h in self.history]
        return Progress(tensors, {"step": self.step, "lbfgs": plain, "history": history})

    def restore(self, state: Progress) -> None:
        """Go on from a saved state of the same stylization.

        Raises:
            StudyError: a state of something else.
        """
        with state.restored("stylization"):
            if not 0 <= int(state.metadata["step"]) <= self.settings.steps:
                raise ValueError(f"step {state.metadata['step']} of {self.settings.steps}")
            with torch.no_grad():
                self.pixels.copy_(state.tensors["pixels"])
            memory: dict[str, Any] = {}
            for name, value in state.metadata["lbfgs"].items():
                if name.endswith(".length"):
                    key = name.removesuffix(".length")
                    memory[key] = [state.tensors.get(f"lbfgs.{key}.{i}") for i in range(value)]
                else:
                    memory[name] = value
            for name, tensor in state.tensors.items():
                key = name.removeprefix("lbfgs.")
                if name != key and "." not in key:
                    memory[key] = tensor
            if missing := [k for k in ("old_dirs", "old_stps", "ro") if None in memory.get(k, [])]:
                raise ValueError(f"{', '.join(missing)} of L-BFGS are missing")
            self.optimiser.state[self.pixels].update({k: _on(v, self.pixels) for k, v in memory.items()})
            self.history = [Losses(*h) for h in state.metadata["history"]]
            self.step = int(state.metadata["step"])
            if len(self.history) != self.step:
                raise ValueError(f"losses of {len(self.history)} steps, not of {self.step}")


def _on(value: Any, like: Tensor) -> Any:
    if isinstance(value, list):
        return [_on(v, like) for v in value]
    # Files give memory at any address; sums over it can differ in the last bit, which a clone avoids.
    return value.to(like.device).clone() if isinstance(value, Tensor) else value
