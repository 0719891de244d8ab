"""Features of a network at named layers.

Layers are the network's module names. In networks whose convolutions stand in one sequence, as VGG's do, they also have
Gatys' names: ``conv3_1`` is the first convolution after two poolings, with the activation that follows it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from racecar.study.core.errors import StudyError

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid)


class _ReachedError(Exception):
    """The deepest layer has answered: what follows it is not needed, and may refuse the picture's size."""


class Extractor:
    """Features at some layers, up to the deepest of them and no further.

    Args:
        network: left as it is; a copy is used, in evaluation mode, without gradients for its weights.
        layers: module names, or Gatys'.
        pooling: ``"avg"`` replaces max pooling by average pooling, as Gatys et al. advise for smoother pictures.

    Raises:
        StudyError: a layer that the network does not have.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], pooling: str = "max") -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        aliases, modules = gatys_names(self.network), dict(self.network.named_modules())
        if unknown := [n for n in layers if n not in aliases and n not in modules]:
            known = list(aliases) or [n for n, m in modules.items() if n and not list(m.children())]
            raise StudyError(
                f"the network has no layer {', '.join(unknown)}; it has {', '.join(known[:40])}"
                + (" and more" if len(known) > 40 else "")
            )
        if pooling == "avg":
            for name, module in list(self.network.named_modules()):
                if isinstance(module, nn.MaxPool2d):
                    parent, _, child = name.rpartition(".")
                    new = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
                    setattr(self.network.get_submodule(parent), child, new)
        modules = dict(self.network.named_modules())
        self.layers = list(dict.fromkeys(layers))
        self._found: dict[str, Tensor] = {}
        for name in self.layers:
            modules[aliases.get(name, name)].register_forward_hook(self._keep(name))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            self._found[name] = output.clone()  # what follows may work in place
            if len(self._found) == len(self.layers):
                raise _ReachedError

        return hook

    def __call__(self, picture: Tensor) -> dict[str, Tensor]:
        """Features per layer.

        Args:
            picture: [1, 3, h, w], normalised.

        Raises:
            StudyError: the picture is too small for the deepest layer.
        """
        try:
            return self._run(picture)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                raise
            missing = [n for n in self.layers if n not in self._found]
            smallest = self._smallest(picture)
            if smallest is None or min(picture.shape[2:]) >= smallest:
                raise
            height, width = picture.shape[2:]
            raise StudyError(
                f"a picture of {width} × {height} pixels is too small for {', '.join(missing)}: both sides must be at "
                f"least {smallest}. Choose a larger --size, or earlier layers"
            ) from error

    def _run(self, picture: Tensor) -> dict[str, Tensor]:
        self._found = {}
        with suppress(_ReachedError):
            self.network(picture)
        missing = [n for n in self.layers if n not in self._found]
        if missing:
            raise StudyError(f"the network's forward pass does not run {', '.join(missing)}")
        return {n: self._found[n] for n in self.layers}

    @torch.no_grad()
    def _smallest(self, like: Tensor) -> int | None:
        """The smallest square that the layers take, among powers of two."""
        for side in (2**k for k in range(11)):
            try:
                self._run(like.new_zeros(1, like.shape[1], side, side))
            except RuntimeError:
                continue
            return side
        return None


def gatys_names(network: nn.Module) -> dict[str, str]:
    """``conv1_1`` and so on, by the name of the module whose output it is; empty for networks of another kind."""
    parents = [n.rpartition(".")[0] for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    name = max(parents, key=parents.count, default="")
    sequence = network.get_submodule(name)
    # timm's VGG has two more convolutions, which stand for fully connected layers.
    if not isinstance(sequence, nn.Sequential) or len(parents) - parents.count(name) > 2 or parents.count(name) < 3:
        return {}
    prefix = f"{name}." if name else ""
    found: dict[str, str] = {}
    block, number, waiting = 1, 0, ""
    for child, module in sequence.named_children():
        if isinstance(module, nn.Conv2d):
            number += 1
            waiting = f"conv{block}_{number}"
            found[waiting] = prefix + child
        elif isinstance(module, _ACTIVATIONS) and waiting:
            found[waiting], waiting = prefix + child, ""
        elif isinstance(module, _POOLS):
            block, number = block + 1, 0
    return found
