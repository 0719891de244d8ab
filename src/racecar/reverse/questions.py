"""Rules asked how knowledge passes through them: called on ones where an estimate is known, and on zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_leaves

from racecar.forward.graph import is_number
from racecar.reverse.known import Known, narrowed
from racecar.rules.registry import Rule


class Questions:
    """What rules answer on one graph, for inputs of certain sizes.

    Args:
        look: what a node gives for these inputs: a number, a tensor of which the shape and type are read, or a nest.
        values: of the placeholders that do not vary.
        varying: values that differ from call to call.
    """

    def __init__(self, look: Callable[[fx.Node], Any], values: Mapping[fx.Node, Any], varying: Set[fx.Node]) -> None:
        self._look, self._values, self._varying = look, values, varying
        self._constants: dict[fx.Node, Any] = {}
        self._answers: dict[Any, list[Known] | Known] = {}

    def ask(
        self, rule: Rule, args: tuple[Any, ...], estimate: Any, known: Any, kwargs: dict[str, Any]
    ) -> list[Known] | Known:
        """Which entries of what a rule returns are known: those to which a known entry of the estimate contributes.

        Args:
            rule: asked by calling it.
            args: of the operation; tensors of numbers among them are ones, so that nothing cancels.
            estimate: what the rule is given, a tensor or a list of them; only shapes and types are read.
            known: its mask, or a list of them.
            kwargs: of the call.

        Returns:
            A mask for the estimate that the rule returns, or a list of them, one per returned estimate.
        """
        args, kwargs = fx.map_arg((args, kwargs), self._real)
        reverse = rule.informs or rule.reverse
        try:
            key = _comparable(reverse, estimate, known, args, kwargs)
        except TypeError:
            return _answer(reverse, estimate, known, args, kwargs)
        if key not in self._answers:  # the layers of a deep network are alike
            self._answers[key] = _answer(reverse, estimate, known, args, kwargs)
        return self._answers[key]

    def _real(self, node: fx.Node) -> Any:
        """A value for asking how knowledge passes: ones, but constants such as indices and masks as they are."""
        value = self._look(node)
        if isinstance(value, tuple | list):
            return type(value)(_one(v) for v in value)
        if not isinstance(value, Tensor):
            return value
        return _one(value) if is_number(value) or node in self._varying else self._constant(node)

    def _constant(self, node: fx.Node) -> Any:
        """What a node that does not vary gives at every call."""
        if not any(isinstance(e, Tensor) for e in tree_leaves(self._look(node))):
            return self._look(node)
        if node not in self._constants:
            if node in self._values:
                self._constants[node] = self._values[node].detach().cpu()
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), self._constant)
                kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
                self._constants[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._constants[node]


def _answer(
    reverse: Callable[..., Any], estimate: Any, known: Any, args: Any, kwargs: dict[str, Any]
) -> list[Known] | Known:
    nowhere = [_NOWHERE] * len(known) if isinstance(known, list) else _NOWHERE
    with torch.no_grad():
        ones = reverse(_as_numbers(estimate, known), *args, **kwargs)
        zeros = reverse(_as_numbers(estimate, nowhere), *args, **kwargs)
    if isinstance(ones, tuple | list):
        return [None if one is None else _mask(one != zero) for one, zero in zip(ones, zeros, strict=True)]
    return _mask(ones != zeros)


def _comparable(*question: Any) -> Any:
    """A question to a rule in a form that can be compared: by what it says of tensors, not by which they are.

    Raises:
        TypeError: there is something in it that cannot.
    """
    leaves, spec = tree_flatten(question)
    key = spec, tuple((type(leaf), _told(leaf) if isinstance(leaf, Tensor) else leaf) for leaf in leaves)
    hash(key)
    return key


def _told(tensor: Tensor) -> Any:
    if isinstance(tensor, FakeTensor) or tensor.is_meta or not tensor.numel():
        return tensor.shape, tensor.dtype
    if not any(tensor.stride()):  # one value everywhere
        return tensor.shape, tensor.dtype, tensor[(0,) * tensor.ndim].item()
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return tensor.shape, tensor.dtype, hashlib.blake2b(content).digest()


_NOWHERE = torch.zeros((), dtype=torch.bool)


def _as_numbers(estimate: Any, known: Any) -> Any:
    """1 where an estimate is known, else 0."""
    if isinstance(estimate, list):
        return [_as_numbers(e, k) for e, k in zip(estimate, known, strict=True)]
    mask = torch.ones((), dtype=torch.bool) if known is None else known
    numbers = mask.expand(estimate.shape).to(torch.float64)
    return torch.complex(numbers, numbers) if estimate.is_complex() else numbers


def _mask(mask: Tensor) -> Known:
    return None if bool(mask.all()) else narrowed(mask)


def _one(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    kinds = ((value.is_complex(), torch.complex128), (value.is_floating_point(), torch.float64))
    dtype = next((wide for kind, wide in kinds if kind), value.dtype)
    return torch.ones((), dtype=dtype).expand(value.shape)
