"""Models that no program can be derived for, whatever they compute: one line each says why and what to do.

A program reads the model's weights and calls no module: what happens when one is called would not happen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
            check_gathered(path, weight)
            if nn.parameter.is_lazy(weight):
                raise ArgumentError(
                    f"{where} is lazy, its {name} has no shape yet: call the model once before making the Racecar"
                )
            if weight is not None and weight.is_meta:
                raise ArgumentError(
                    f"{where} has its {name} on the meta device, where there are no values: give the model its weights "
                    "first (model.to_empty(device=...), then load_state_dict or an initialisation of your own)"
                )


def check_gathered(path: str, weight: Tensor | None) -> None:
    """Refuse a weight that is sharded among processes.

    Raises:
        ArgumentError: naming the module.
    """
    # A DTensor, asked without an import of torch.distributed.tensor.
    if type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "device_mesh"):
        where = f"module {path!r}" if path else "the model"
        raise ArgumentError(
            f"the weights of {where} are sharded among processes, but the reverse pass needs them whole, together "
            "with all others. Make the Racecar first and shard it at its root alone: "
            "rr = racecar.Racecar(model, ...); fully_shard(rr). For rr.reconstruct: "
            "torch.distributed.fsdp.register_fsdp_forward_method(rr, 'reconstruct')"
        )
