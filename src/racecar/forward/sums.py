"""Sums of linear branches, read off the forward graph: LoRA's B·A beside W, parallel convolutions, x beside W x.

Where every branch from one value x to a sum is linear, the sum is a single linear map of x (plus a constant) with a
single adjoint, the sum of the branches' adjoints. It is mirrored as the one layer that it is: a model in which the
branches are merged has the same penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from racecar.forward.graph import ForwardGraph, example, is_number, tensor_arguments
from racecar.rules import find_rule
from racecar.rules.affine import ADDED_TO, ADDITIONS, BIAS, MOVES, NUMERATOR_FIRST, PRODUCTS
from racecar.rules.identity import CASTS, DROPOUTS, SAME_TENSOR, drop
from racecar.rules.registry import unchanged


@dataclass(frozen=True)
class LinearSum:
    """A value that is linear in another, by several branches.

    Attributes:
        value: x.
        inside: the operations from x on, in forward order; the last one is the sum.
    """

    value: fx.Node
    inside: tuple[fx.Node, ...]

    @property
    def end(self) -> fx.Node:
        """The operation that adds the last branch."""
        return self.inside[-1]


def is_copy(node: fx.Node) -> bool:
    """Whether an operation leaves its operand as it is, but for dropout.

    Stochastic depth does not: a branch that is dropped is no summand.
    """
    rule = find_rule(node.target)
    return rule is not None and rule.reverse is unchanged and rule.range == "through" and node.target is not drop


def itself(node: fx.Node) -> fx.Node:
    """The value behind operations that hand on the very tensor that they got.

    Casts to the type that a value has, dropout that drops nothing: the tracer lets whoever reads the value later read
    the result of such an operation, and which one depends on torch's version.
    """
    while node.op == "call_function" and isinstance(before := node.args[0] if node.args else None, fx.Node):
        if not _hands_on(node, before):
            break
        node = before
    return node


def _hands_on(node: fx.Node, before: fx.Node) -> bool:
    if node.target in CASTS:
        old, new = example(before), example(node)
        return bool((old.dtype, old.device) == (new.dtype, new.device))
    if node.target in DROPOUTS:
        _, probability, training = node.args
        return bool(not training or probability == 0)
    return node.target in SAME_TENSOR


def find_sums(forward: ForwardGraph, nodes: list[fx.Node]) -> list[LinearSum]:
    """Every sum of linear branches from one value.

    What a user, a hook or an operation outside of the sum reads from inside of it keeps a meaning of its own: then it
    is no such sum.

    Args:
        forward: after :func:`racecar.forward.products.analyse`.
        nodes: in forward order, with examples.
    """
    order = {node: i for i, node in enumerate(nodes)}
    sums: list[LinearSum] = []
    taken: set[fx.Node] = set()
    for end in reversed(nodes):
        if end.target not in ADDITIONS or end in taken or not _is_linear(end, forward):
            continue
        if len(_data(end, forward)) == 2 and (found := _branches_to(end, forward, order)) is not None:
            sums.append(found)
            taken.update(found.inside)
    return sums


def _branches_to(end: fx.Node, forward: ForwardGraph, order: dict[fx.Node, int]) -> LinearSum | None:
    """Go back, the latest value first, until a single one is left from which all branches come."""
    inside, waiting = {end}, set(_data(end, forward))
    while len(waiting) > 1:
        node = max(waiting, key=order.__getitem__)
        if not _is_linear(node, forward) or any(u not in inside for u in _readers(node, forward)):
            return None
        waiting.remove(node)
        inside.add(node)
        waiting.update(_data(node, forward))
    (value,) = waiting
    return LinearSum(value, tuple(sorted(inside, key=order.__getitem__)))


def _readers(node: fx.Node, forward: ForwardGraph) -> list[fx.Node]:
    """Who reads more of a value than its size, through casts to the type that it has."""
    readers: list[fx.Node] = []
    for user in node.users:
        if itself(user) is not user:
            readers += _readers(user, forward)
        elif user.op != "call_function" or user in forward.data:
            readers.append(user)
    return readers


def _first(node: fx.Node) -> fx.Node | None:
    first = node.args[0]
    return itself(first) if isinstance(first, fx.Node) else None


def _data(node: fx.Node, forward: ForwardGraph) -> list[fx.Node]:
    return [itself(a) for a in tensor_arguments(node) if a in forward.data]


def _is_linear(node: fx.Node, forward: ForwardGraph) -> bool:
    """Whether an operation is linear in its data, up to a constant, and its reverse rule the adjoint."""
    if node.op != "call_function" or node in forward.pointwise or node in forward.coefficients:
        return False
    data, result = _data(node, forward), example(node)
    if not data or not is_number(result):
        return False
    if node.target in ADDITIONS:  # of equal sizes: what is repeated would have to be summed
        return all(example(d).shape == result.shape and example(d).dtype == result.dtype for d in data)
    if len(data) > 1:
        return False
    if node.target in BIAS or node.target in NUMERATOR_FIRST:
        return _first(node) is data[0]
    if node.target in ADDED_TO:
        return _first(node) is not data[0]
    return node.target in PRODUCTS or node.target in MOVES or is_copy(node)
