"""Models that no program can be derived for, whatever they compute: one line each says why and what to do.

A program reads the model's weights and calls no module: what happens when one is called would not happen.
"""

from __future__ import annotations

import torch
from torch import nn

from racecar.errors import ArgumentError

_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"}
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_readable(model: nn.Module) -> None:
    """Refuse a model whose modules or weights a program cannot read.

    Raises:
        ArgumentError: naming the module, the reason and the remedy.
    """
    for path, module in model.named_modules():
        kind, where = type(module), f"module {path!r} of the model" if path else "the model"
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            raise ArgumentError(
                f"{where} is a {kind.__name__}, which the palindrome would pass by: gradients would not be shared "
                "among processes. Wrap the other way round: "
                "torch.nn.parallel.DistributedDataParallel(racecar.Racecar(model, ...))"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ArgumentError(
                f"{where} is compiled by torch.jit ({kind.__name__}), whose Python code is gone, so that it cannot be "
                "traced: make the Racecar from the module as it was before torch.jit.script or torch.jit.trace"
            )
        if kind.__module__.startswith(_QUANTISED):
            raise ArgumentError(
                f"{where} is quantised ({kind.__name__}): it has no weights that are trained. Make the Racecar from "
                "the model before quantisation"
            )
        for name, weight in (*module._parameters.items(), *module._buffers.items()):
            if nn.parameter.is_lazy(weight):
                raise ArgumentError(
                    f"{where} is lazy, its {name} has no shape yet: call the model once before making the Racecar"
                )
