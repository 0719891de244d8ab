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
from torch import Tensor, nn
from torch.autograd.function import FunctionMeta

from racecar.forward.graph import ForwardGraph

_PLAIN = (int, float, complex, bool, str, type(None), torch.dtype, torch.device)


@torch.library.custom_op("racecar::seam", mutates_args=())
def seam(result: Tensor, tensors: list[Tensor], call: int) -> Tensor:
    """Where a traced function ends: what it gives, of which tensors, in which call."""
    return result.clone()


@seam.register_fake
def _(result: Tensor, tensors: list[Tensor], call: int) -> Tensor:
    return torch.empty_like(result)


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
    """While it lasts, functions of a user's leave a seam where what is traced of them ends: their calls."""
    calls: list[Call] = []

    def forward_of(function: Any, plain: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = args if _has_setup_context(function) else args[1:]
            tensors = [a for a in given if isinstance(a, Tensor)]
            versions = [t._version for t in tensors]
            result = plain(*args, **kwargs)
            in_place = versions != [t._version for t in tensors]
            if not isinstance(result, Tensor) or in_place or kwargs or not tensors or not _plain(given):
                return result  # the proof says whether it matters
            calls.append(Call(function, tuple(_TENSOR if isinstance(a, Tensor) else a for a in given)))
            return seam(result, tensors, len(calls) - 1)

        return forward

    def attribute(function: Any, name: str) -> Any:
        value = type.__getattribute__(function, name)
        users = name == "forward" and not function.__module__.startswith("torch.")
        return forward_of(function, value) if users else value

    # Whoever calls a function, from Python or C++, looks its forward up; its apply may have been kept long before.
    kind = cast(Any, FunctionMeta)
    kind.__getattribute__ = attribute
    try:
        yield calls
    finally:
        del kind.__getattribute__


def _has_setup_context(function: Any) -> bool:
    """Whether a function's forward takes no context: the other way of writing one."""
    return function.setup_context is not torch.autograd.Function.setup_context


def _plain(args: tuple[Any, ...]) -> bool:
    """Whether a call can be made again later: of tensors, and of what does not change."""
    rest = [a for a in args if not isinstance(a, Tensor)]
    return all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves(rest))


def join(forward: ForwardGraph) -> None:
    """Seams, which only a tracer needs, become calls that can be copied."""
    for node in forward.graph.find_nodes(op="call_function", target=torch.ops.racecar.seam.default):
        result, tensors, call = node.args
        node.target, node.args = applied, (call, *tensors, result)


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
