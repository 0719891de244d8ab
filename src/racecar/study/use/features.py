"""What a network's layers say of images: one vector per image, of any layer."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images
from racecar.study.pretrain.heads import find_heads
from racecar.study.pretrain.probing import head_inputs
from racecar.study.use.network import BATCH, Network


def features(network: Network, pixels: Tensor, layer: str | None = None) -> Tensor:
    """Vectors [N, D] in float32 on the CPU, in evaluation mode.

    Args:
        network: see there.
        pixels: [N, C, H, W], uint8.
        layer: the module whose output they are: maps [N, C, H, W] and tokens [N, T, D] are averaged over their places;
            None: what enters the last layer.

    Raises:
        StudyError: no such module, or its output is not one vector, map or list of tokens per image.
    """
    if layer is None:
        heads = find_heads(network.model, len(network.classes))
        images = Images(pixels, torch.zeros(len(pixels), dtype=torch.long), ())
        found = head_inputs(network.model, heads, images, network.seen, BATCH)
        assert found is not None  # nobody stopped it
        return found.cpu()
    modules = dict(network.model.named_modules())
    if layer not in modules or not layer:
        near = difflib.get_close_matches(layer, [n for n in modules if n], 3)
        known = near or [n for n in modules if n and "." not in n]
        raise StudyError(f"{network.about['model']} has no module {layer!r}: --layer {' or '.join(known)}?")
    kept: list[Any] = []
    hook = modules[layer].register_forward_hook(_keep(kept))
    parts = []
    try:
        with torch.no_grad():
            for part in pixels.split(BATCH):
                network.model(network.seen(part))
                if len(kept) != 1:
                    raise StudyError(f"the module {layer} is called {len(kept)} times in a forward pass, not once")
                parts.append(_vectors(kept.pop(), layer, len(part), modules[layer]).cpu())
    finally:
        hook.remove()
    return torch.cat(parts)


def _keep(kept: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output)

    return keep


def _vectors(output: Any, layer: str, count: int, module: nn.Module) -> Tensor:
    if not isinstance(output, Tensor) or len(output) != count or output.ndim not in (2, 3, 4):
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(f"the module {layer} gives {what} for {count} images, not a vector, map or tokens for each")
    if output.ndim == 4:
        # Windowed transformers have channels last.
        last = isinstance(module, nn.Linear | nn.LayerNorm)
        return output.float().mean((1, 2) if last else (2, 3))
    return output.float().mean(1) if output.ndim == 3 else output.float()
