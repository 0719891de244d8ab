"""The reverse pass on a fraction of the batch: ``Racecar(…, fraction=f)``.

The forward pass sees the whole batch; of every forward value that the reverse pass reads, the rows of the first samples
are taken. Sums are divided by the fraction, so that the expected penalty of a shuffled batch is unchanged.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import Function

from racecar.errors import ArgumentError
from racecar.forward.graph import function_of, module_path, symbolic
from racecar.options import Reduction
from racecar.reverse.builder import segment
from racecar.rules.reshapes import RESHAPES


def samples(batch: int, fraction: float) -> int:
    """How many samples of a batch the reverse pass sees: at least one."""
    return max(1, round(batch * fraction))


def rows(value: Tensor, batch: Tensor, fraction: float, dim: int = 0, outer: int = 1) -> Tensor:
    """What belongs to the first samples: ``dim`` of the value is ``outer`` times the batch times whatever is inside."""
    size = batch.shape[0]
    inner = value.shape[dim] // (outer * size)
    count = samples(size, fraction) * inner
    if outer == 1:
        return _first(value, dim, count)
    return _first(value.unflatten(dim, (outer, size * inner)), dim + 1, count).flatten(dim, dim + 1)


def _first(value: Tensor, dim: int, count: int) -> Tensor:
    return value.narrow(dim, 0, count) if torch.compiler.is_compiling() else _First.apply(value, dim, count)


class _First(Function):
    """``narrow`` whose gradient lies in memory as the value does: torch's is contiguous.

    In a channels-last network it would be rearranged again and again, which took longer than what the fraction saves.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, dim: int, count: int) -> Tensor:
        return value.narrow(dim, 0, count).clone(memory_format=torch.preserve_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        value, ctx.dim, ctx.count = inputs
        ctx.like = torch.empty_like(value, device="meta")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = torch.zeros_like(ctx.like, dtype=gradient.dtype, device=gradient.device)
        whole.narrow(ctx.dim, 0, ctx.count).copy_(gradient)
        return whole, None, None


def _together(*values: Tensor) -> tuple[Tensor, ...]:
    return values


def weighted(distances: Tensor, batch: Tensor, fraction: float) -> Tensor:
    """Sums over the first samples, scaled to sums over the whole batch."""
    return distances * (batch.shape[0] / samples(batch.shape[0], fraction))


def reverse_on_fraction(program: fx.GraphModule, fraction: float, reduction: Reduction) -> None:
    """Let the reverse pass of a training program see the first samples of a batch alone, in place.

    Args:
        program: (weights…, inputs…) → (outputs, distances); the batch is the first dimension of its first input.
        fraction: of the batch, above 0; at least one sample.
        reduction: of the distances; sums are scaled to sums over the whole batch.

    Raises:
        ArgumentError: the program holds for one batch size alone, or where the samples are in a value that the reverse
            pass reads cannot be told.
    """
    graph = program.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(_size(n, 0), torch.SymInt)]
    if not inputs:
        raise ArgumentError("fraction: the graph holds for one batch size alone, so that it has no share")
    batch = inputs[0]
    symbols: set[Any] = _size(batch, 0).node.expr.free_symbols
    outer = _outer(graph, symbols)
    taken: dict[fx.Node, fx.Node] = {}

    def mapped(node: fx.Node) -> fx.Node:
        if segment(node) is not None:
            return node
        if node in taken:
            return taken[node]
        value = symbolic(node)
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            args, kwargs = fx.map_arg((node.args, node.kwargs), mapped)
            taken[node] = graph.call_function(function_of(node), args, kwargs)
            return taken[node]
        if isinstance(value, tuple | list):
            pieces = [graph.call_function(operator.getitem, (node, i)) for i in range(len(value))]
            for piece, part in zip(pieces, value, strict=True):
                piece.meta["val"] = part
                if node in outer:
                    outer[piece] = outer[node]
            taken[node] = graph.call_function(_together, tuple(mapped(piece) for piece in pieces))
            return taken[node]
        varying = _varying(value, symbols)
        if not varying:
            return node
        if len(varying) > 1 or outer.get(node, 1) is None:
            raise ArgumentError(
                f"fraction: how the batch lies in the value of {node.target} in module {module_path(node)!r} "
                f"({tuple(value.shape)}) cannot be told: leave fraction out"
            )
        taken[node] = graph.call_function(rows, (node, batch, fraction, varying[0], outer.get(node, 1)))
        return taken[node]

    for node in list(graph.nodes):
        if segment(node) is not None:
            with graph.inserting_before(node):
                node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), mapped)
    if reduction == "sum":
        (output,) = graph.find_nodes(op="output")
        outputs, distances = output.args[0]
        with graph.inserting_before(output):
            output.args = ((outputs, graph.call_function(weighted, (distances, batch, fraction))),)
    program.recompile()


def _size(node: fx.Node, dim: int) -> Any:
    value = symbolic(node)
    return value.shape[dim] if isinstance(value, Tensor) and value.ndim > dim else None


def _varying(value: Any, symbols: set[Any]) -> list[int]:
    """The dimensions of a value that change with the batch."""
    sizes = value.shape if isinstance(value, Tensor) else ()
    return [d for d, s in enumerate(sizes) if isinstance(s, torch.SymInt) and s.node.expr.free_symbols & symbols]


def _outer(graph: fx.Graph, symbols: set[Any]) -> dict[fx.Node, int | None]:
    """For values that have the batch and something else in one dimension: how often the batch repeats in it.

    A dimension (T, B) of T tokens of B samples made one has T; (B, T) has 1. None: it cannot be told.
    """
    outer: dict[fx.Node, int | None] = {}
    for node in graph.nodes:
        varying = _varying(symbolic(node), symbols)
        if segment(node) is not None or node.op != "call_function" or not varying:
            continue
        if len(varying) == 1 and symbolic(node).shape[varying[0]].node.expr in symbols:
            continue  # the batch alone
        sources = [a for a in node.all_input_nodes if _varying(symbolic(a), symbols)]
        if node.target in RESHAPES and len(varying) == 1:
            outer[node] = _merged(sources[0], node, varying[0], outer, symbols)
        else:
            known = {outer.get(a, 1) for a in sources if a in outer}
            outer[node] = known.pop() if len(known) == 1 else None
    return outer


def _merged(
    source: fx.Node, node: fx.Node, dim: int, outer: dict[fx.Node, int | None], symbols: set[Any]
) -> int | None:
    """How often the batch repeats in a dimension that a reshape makes: once per place of what it merges before it."""
    before, after = symbolic(source).shape, symbolic(node).shape
    place = _varying(symbolic(source), symbols)
    if (
        len(place) != 1
        or outer.get(source, 1) is None
        or not all(isinstance(s, int) for s in (*after[:dim], *before[: place[0]]))
    ):
        return None
    first, size = 0, 1  # the dimension with which the merged group begins
    while size < math.prod(after[:dim]):
        size, first = size * before[first], first + 1
    if size != math.prod(after[:dim]) or first > place[0]:
        return None
    inside = math.prod(before[first : place[0]])
    return inside * (outer.get(source, 1) or 1)
