"""Activations that torch.nn.functional writes in several operations, folded back to one."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import fx
from torch.fx.node import Argument

from racecar.rules.activation import softsign, tanhshrink

aten = torch.ops.aten


def fold_activations(graph: fx.Graph) -> None:
    """Fold softsign, x / (|x| + 1), and tanhshrink, x - tanh(x), to one operation each."""
    for node in list(graph.nodes):
        if inside := _inside_softsign(node):
            activation = softsign
        elif inside := _inside_tanhshrink(node):
            activation = tanhshrink
        else:
            continue
        node.target, node.args = activation, (node.args[0],)
        for dead in inside:
            if not dead.users:
                graph.erase_node(dead)


def _inside_softsign(node: fx.Node) -> list[fx.Node]:
    """The operations whose results alone an x / (|x| + 1) uses, the last first; none if the node is no softsign."""
    if not _calls(node, aten.div.Tensor) or not _calls(total := node.args[1], aten.add.Tensor) or total.args[1] != 1:
        return []
    magnitude = total.args[0]
    return [total, magnitude] if _calls(magnitude, aten.abs.default) and magnitude.args[0] is node.args[0] else []


def _inside_tanhshrink(node: fx.Node) -> list[fx.Node]:
    """The tanh of an x - tanh(x); none if the node is no tanhshrink."""
    if not _calls(node, aten.sub.Tensor) or not _calls(tanh := node.args[1], aten.tanh.default):
        return []
    return [tanh] if tanh.args[0] is node.args[0] else []


def _calls(value: Argument, op: object) -> TypeGuard[fx.Node]:
    """Whether an argument is the result of an operation called without keywords, such as alpha."""
    return isinstance(value, fx.Node) and value.target is op and not value.kwargs
