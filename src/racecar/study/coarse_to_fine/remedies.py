"""Two changes of the reverse pass that are tried on conv nets: a gain per unit, and noise on I_r.

Both are operations that leave the forward pass as it is and have a reverse rule of their own, put behind what a module
does (not by hooks, which the library runs outside its graph).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import racecar


@torch.library.custom_op("racecar_study::gained", mutates_args=())
def _gained(x: Tensor, gain: Tensor) -> Tensor:
    return x.clone()


@torch.library.custom_op("racecar_study::noised", mutates_args=())
def _noised(x: Tensor, amount: float) -> Tensor:
    return x.clone()


for _operation in (_gained, _noised):
    _operation.register_fake(lambda x, *_: torch.empty_like(x))
_gained.register_autograd(lambda _, grad: (grad, None))
_noised.register_autograd(lambda _, grad: (grad, None))


@racecar.register_reverse(torch.ops.racecar_study.gained.default, range="through", context=True)
def _with_gain(estimate: Tensor, x: Tensor, gain: Tensor, *, context: racecar.ReverseCall) -> tuple[Tensor, None]:
    by_unit = gain.to(estimate.dtype).view(-1, *[1] * (estimate.dim() - 2))
    return estimate * by_unit, None


@racecar.register_reverse(torch.ops.racecar_study.noised.default, range="through")
def _with_noise(estimate: Tensor, x: Tensor, amount: float) -> Tensor:
    return estimate + amount * estimate.detach().std() * torch.randn_like(estimate)


def add_gains(body: nn.Module) -> None:
    """Tie weights up to a gain per unit: Wᵀ diag(g), g a parameter of every convolution and linear layer, 1 at first.

    Args:
        body: is changed until :func:`remove`.
    """
    for layer in list(body.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_parameter("gain", nn.Parameter(torch.ones(len(layer.weight), device=layer.weight.device)))
            _extend(layer, lambda module, output: torch.ops.racecar_study.gained(output, module.gain))


def add_noise(start: nn.Module, amount: float) -> None:
    """Begin the reverse pass at I_r + noise.

    Args:
        start: the module whose output is I_r; is changed until :func:`remove`.
        amount: the noise's standard deviation in those of I_r.
    """
    _extend(start, lambda _, output: torch.ops.racecar_study.noised(output, amount))


def remove(model: nn.Module) -> None:
    """Take gains and noise away again: what is left are the weights of the plain network."""
    for module in model.modules():
        vars(module).pop("forward", None)
        if isinstance(module, nn.Conv2d | nn.Linear):
            module._parameters.pop("gain", None)


def _extend(module: nn.Module, operation: Callable[[nn.Module, Tensor], Tensor]) -> None:
    plain = module.forward
    vars(module)["forward"] = lambda x: operation(module, plain(x))
