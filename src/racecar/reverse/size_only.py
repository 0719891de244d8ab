"""Forward values of which a rule reads nothing but the size: the reverse pass then need not keep them.

The rule of a convolution, an activation or an addition takes the forward operation's arguments, and uses the sizes of
data at most. A stand-in of the same size has one element, and what it stands for is freed in the forward pass, as it
would be without a reverse pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from racecar.errors import RuleError


def size_of(value: Tensor) -> Tensor:
    """A tensor of the same size, type and device with a single element behind it."""
    return value.new_empty(()).expand(value.shape)


def stands_for(node: fx.Node) -> fx.Node:
    """The forward value behind a stand-in of a graph; of any other node itself."""
    return node.args[0] if node.target is size_of else node  # type: ignore[return-value]


def reads_sizes_alone(call: Callable[[Callable[[Tensor], Tensor]], object]) -> bool:
    """Whether a rule gets along with the sizes of some values.

    Args:
        call: runs it and returns its result, given what turns such a value into one that only tells its size.
    """
    try:
        result = call(lambda value: torch.empty((), dtype=value.dtype).expand(value.shape).as_subclass(_Size))
    except Exception:  # the rule's own errors are found where it is called with the values themselves
        return False
    return not any(isinstance(value, _Size) for value in tree_leaves(result))


class _Size(Tensor):
    """Raises where its content is asked for."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _ABOUT_SIZE:
            raise RuleError("the content is read")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs or {})


_ABOUT_SIZE: set[Any] = {
    *(Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.dtype.__get__),  # type: ignore[attr-defined]
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__),
}
