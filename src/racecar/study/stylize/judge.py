"""Distances between pictures as an independent network sees them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from racecar.study.classification.batches import Normalisation
from racecar.study.stylize.features import Extractor, gatys_names
from racecar.study.stylize.losses import gram, style_energy


class Judge:
    """A network that took no part in making the pictures.

    Args:
        network: any with convolutions. Where they have Gatys' names, the last one of every block is used, else all.
        normalisation: of what it sees.

    Raises:
        ValueError: the network has no convolution.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        names = list(gatys_names(network))
        last = {n.partition("_")[0]: n for n in names}
        layers = list(last.values()) or [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
        if not layers:
            raise ValueError("the judging network has no convolution")
        self.extract = Extractor(network, layers)
        self.mean = torch.tensor(normalisation.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(normalisation.std).view(1, 3, 1, 1)

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> float:
        """Of two pictures [1, 3, h, w], as LPIPS (Zhang et al. 2018) without its learnt weights.

        Features are scaled to length 1 at every position; squared distances are averaged over positions, then layers.
        """
        found = []
        for x, y in self._features(a, b):
            x, y = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, y))
            found.append((x - y).square().sum(1).mean())
        return float(torch.stack(found).mean())

    @torch.no_grad()
    def style(self, a: Tensor, b: Tensor) -> float:
        """Σ E_t of Eq. 4 over the layers, features divided by their mean absolute activation on ``a``."""
        found = []
        for x, y in self._features(a, b):
            size = x.abs().mean().clamp(min=1e-10)
            found.append(style_energy(gram(x / size), gram(y / size)))
        return float(torch.stack(found).mean())

    def _features(self, a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
        left, right = (self.extract((t - self.mean) / self.std) for t in (a, b))
        return [(left[n], right[n]) for n in left]
