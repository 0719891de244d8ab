"""Batch norms that average over all batches alike (``momentum=None``), as ``update_bn`` sets them to.

Such a norm reads its count of batches as a Python number, which no tracer can: it is traced with a momentum, and the
graph then reads the count where the momentum stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _BatchNorm

from racecar.forward.graph import ForwardGraph, module_path

_MOMENTUM = 6  # its position among the arguments of aten.batch_norm


def one_of(count: Tensor) -> float:
    """The weight of the last batch in a plain average over ``count`` batches."""
    if isinstance(count, FakeTensor):
        return 1.0  # while the graph is mirrored there are no values, and none is asked for
    return 1.0 / float(count)


def _cumulative(model: nn.Module) -> list[_BatchNorm]:
    """The norms of this kind that count, with a forward that asks for nothing else; ``_BatchNorm``'s own."""
    return [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm)
        and getattr(m.forward, "__func__", None) is _BatchNorm.forward
        and m.momentum is None
        and m.track_running_stats
    ]


@contextlib.contextmanager
def with_momentum(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """While it lasts, norms of this kind have a momentum: the norms."""
    norms = _cumulative(model)
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield norms
    finally:
        for norm in norms:
            norm.momentum = None


def read_counts(forward: ForwardGraph, model: nn.Module, norms: list[_BatchNorm]) -> None:
    """Let a graph traced under :func:`with_momentum` average as the norms do."""
    if not norms:
        return
    named = dict(model.named_buffers(remove_duplicate=False))
    held = zip(forward.weights, forward.weight_nodes, strict=True)
    counts = {id(named[name]): node for name, node in held if name in named}
    for node in forward.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        module = model.get_submodule(module_path(node))
        if module in norms and module.training:
            with forward.graph.inserting_before(node):
                share = forward.graph.call_function(one_of, (counts[id(module.num_batches_tracked)],))
            share.meta = {k: v for k, v in node.meta.items() if k == "nn_module_stack"}
            node.update_arg(_MOMENTUM, share)
