"""``autograd.Function`` in a forward: the graph calls it, so that its own backward pass is the one that runs.

torch.export goes into its forward and forgets its backward. What it finds there is kept beside the call: the reverse
pass goes back through these operations, as it would without the function. They are computed once more for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.autograd.function import _SingleLevelFunction  # type: ignore[attr-defined]

from racecar.forward.graph import ForwardGraph

_PLAIN = (int, float, complex, bool, str, type(None), torch.dtype, torch.device)
_RESULT = -1


@torch.library.custom_op("racecar::seam", mutates_args=())
def seam(value: Tensor, call: int, place: int) -> Tensor:
    """Where a traced function begins (the place of an argument) or ends (-1)."""
    return value.clone()


@seam.register_fake
def _(value: Tensor, call: int, place: int) -> Tensor:
    return torch.empty_like(value)


def applied(call: int, *values: Tensor) -> Tensor:
    """Stands for a call while the graph is cleaned: the tensors that it takes, then what it gives."""
    return values[-1]


class Call(nn.Module):
    """A function as a module, which a graph can call with the function's tensors and what is left to be ignored.

    Args:
        function: the ``autograd.Function``.
        args: of the call, with an empty place for each tensor.
    """

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.function, self.args = function, args

    def forward(self, *values: Tensor) -> Tensor:
        """The function of the tensors in ``values``; what follows them is there for the reverse pass."""
        tensors = iter(values)
        result: Tensor = self.function.apply(*(next(tensors) if a is _TENSOR else a for a in self.args))
        return result


class _Tensor:
    def __deepcopy__(self, memo: Any) -> _Tensor:
        return self


_TENSOR = _Tensor()


@contextlib.contextmanager
def functions_marked() -> Iterator[list[Call]]:
    """While it lasts, functions of a user's leave seams around what is traced of them: their calls."""
    calls: list[Call] = []
    base = cast(Any, _SingleLevelFunction)  # of every Function, also where its apply was kept before

    def apply(cls: Any, *args: Any) -> Any:
        if cls.__module__.startswith("torch.") or not _plain(args):
            return super(base, cls).apply(*args)
        number = len(calls)
        calls.append(Call(cls, tuple(_TENSOR if isinstance(a, Tensor) else a for a in args)))
        marked = [seam(a, number, i) if isinstance(a, Tensor) else a for i, a in enumerate(args)]
        result = super(base, cls).apply(*marked)
        return seam(result, number, _RESULT) if isinstance(result, Tensor) else result

    base.apply = classmethod(apply)
    try:
        yield calls
    finally:
        del base.apply


def _plain(args: tuple[Any, ...]) -> bool:
    """Whether a call can be made again later: of tensors, and of what does not change."""
    rest = [a for a in args if not isinstance(a, Tensor)]
    return all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves(rest))


def join(forward: ForwardGraph) -> None:
    """Take out the seams; a call that gives one tensor is noted as such."""
    graph, taken = forward.graph, dict[int, list[fx.Node]]()
    for node in list(graph.find_nodes(op="call_function", target=torch.ops.racecar.seam.default)):
        value, call, place = node.args
        if place != _RESULT:
            taken.setdefault(call, []).append(value)
            node.replace_all_uses_with(value)
            graph.erase_node(node)
        else:
            node.target, node.args = applied, (call, *taken.get(call, ()), value)


def keep_backward(forward: ForwardGraph, calls: list[Call]) -> None:
    """Let the graph call the functions, each in the place of what was traced of it."""
    graph = forward.graph
    for node in list(graph.find_nodes(op="call_function", target=applied)):
        number, *values = node.args
        name = f"own_backward_{number}"
        forward.root.add_module(name, calls[number])
        with graph.inserting_after(node):
            call = graph.call_module(name, tuple(values))
        call.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "val")}
        node.replace_all_uses_with(call)
        forward.outputs = [call if o is node else o for o in forward.outputs]
        if node in forward.data:
            forward.data.remove(node)
            forward.data.add(call)
        graph.erase_node(node)
