"""Products of two activations, read off the forward graph before it is mirrored.

A product is linear in one of its operands, the *value*: the reverse pass estimates that one, with the forward value of
the other, the *coefficient*: gates (squeeze-excitation, GLU), attention weights, weights that a network computes. A
product in which both operands are functions of one value, entry by entry or by its mean and variance, is no product
but a norm or activation spelled out (``x * sigmoid(x)``): nothing on the way back, and range map (Section 3). So is a
choice (``where(x > 0, x, 0.1 * x)``, ``maximum(x, 0.1 * x)``), and a straight-through estimator, that is
``x + (q - x).detach()`` with q a function of x: the quantisation of x. A product with random numbers is dropout
(stochastic depth).
"""

from __future__ import annotations

from collections.abc import Set
from typing import TypeGuard

import torch
from torch import Tensor, fx

from racecar.forward.graph import ForwardGraph, example, is_number, is_random, tensor_arguments
from racecar.rules import find_rule
from racecar.rules.gates import BOUNDED, GATES, MATRIX_PRODUCTS, SOFTMAX
from racecar.rules.identity import drop
from racecar.rules.pointwise import EXTREMA, FUNCTIONS, LAST_OF_SPELLED_OUT, POINTWISE, STATISTICS

aten = torch.ops.aten

_LONGEST = 40  # operations of a spelled-out norm or activation


def analyse(forward: ForwardGraph, nodes: list[fx.Node]) -> None:
    """Note in ``forward`` which operand of each product is its coefficient, and what is no product at all.

    Args:
        forward: its ``coefficients``, ``averages`` and ``pointwise`` are filled.
        nodes: in forward order, with examples.
    """
    order = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        if node.op != "call_function" or node not in forward.data:
            continue
        if _drops(node, forward):
            continue
        if (root := _spelled_out(node, forward, order)) is not None:
            forward.pointwise[node] = root
            continue
        operands = [a for a in tensor_arguments(node) if a in forward.data]
        if len(operands) < 2:
            continue
        position = _coefficient(node, forward)
        if position is not None:
            forward.coefficients[node] = position
            if node.target in MATRIX_PRODUCTS and _is_attention(tensor_arguments(node)[position], forward):
                forward.averages.add(node)


def _coefficient(node: fx.Node, forward: ForwardGraph) -> int | None:
    """The position of the coefficient among the tensor arguments of a product of two activations."""
    arguments = tensor_arguments(node)
    rule = find_rule(node.target)
    if node.target is aten.div.Tensor:
        return 1
    if node.target is aten.mul.Tensor:
        return _gate(*arguments[:2])
    if node.target is aten.add.Tensor and (value := _straight_through(node)) is not None:
        return 1 - arguments.index(value)  # what is quantised depends on more: the step to its code is subtracted
    if node.target is aten.addcmul.default:
        return 1 + _gate(*arguments[1:3]) if forward.data.issuperset(arguments[1:3]) else None
    if node.target in MATRIX_PRODUCTS and len(arguments) == 2:
        attention = [_is_attention(n, forward) for n in arguments]
        return attention.index(True) if any(attention) else 0
    if rule is not None and rule.layer is not None and arguments[0] in forward.data and len(arguments) > 1:
        return 1 if arguments[1] in forward.data else None  # weights that the network computes itself
    return None


def _gate(a: fx.Node, b: fx.Node) -> int:
    """Which of two factors is the coefficient: a mask, the smaller one, or the one that comes out of an activation."""
    masks = [_is_mask(n) for n in (a, b)]
    if masks[0] != masks[1]:
        return masks.index(True)
    sizes = [example(n).numel() for n in (a, b)]
    if sizes[0] != sizes[1]:
        return sizes.index(min(sizes))
    for kinds in (GATES, BOUNDED, None):
        gates = [_is_activation(n, kinds) for n in (a, b)]
        if gates[0] != gates[1]:
            return gates.index(True)
    return 1


def _is_mask(node: fx.Node) -> bool:
    """Whether a value holds no floating numbers, or such as were cast: nothing can be learnt through it."""
    while is_number(example(node)):
        rule = find_rule(node.target)
        if rule is None or rule.range not in ("through", "within") or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]
    return isinstance(example(node), Tensor)


def _is_activation(node: fx.Node, kinds: Set[object] | None) -> bool:
    """Whether a value comes out of an activation (of some kinds), through moves, casts and dropout."""
    while node.op == "call_function":
        rule = find_rule(node.target)
        if rule is None:
            return False
        if node.target is aten.rsub.Scalar:  # 1 - gate is a gate
            (node,) = node.all_input_nodes
            continue
        if callable(rule.range):
            return kinds is None or node.target in kinds
        if rule.range is None or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]
    return False


def _is_attention(node: fx.Node, forward: ForwardGraph) -> bool:
    """Whether a matrix is the output of a softmax, through moves, casts and dropout: its rows are averages."""
    while node.op == "call_function" and node.target not in SOFTMAX:
        rule = find_rule(node.target)
        inside = [a for a in node.all_input_nodes if a in forward.data]
        if rule is None or rule.range not in ("through", "within") or len(inside) != 1:
            return False
        node = inside[0]
    return node.op == "call_function"


def _drops(node: fx.Node, forward: ForwardGraph) -> bool:
    """A product with random numbers becomes :func:`racecar.rules.identity.drop`."""
    if node.target is not aten.mul.Tensor or len(node.args) != 2:
        return False
    others = [a for a in node.args if isinstance(a, fx.Node) and a not in forward.data]
    if len(others) != 1 or not _is_random(others[0]):
        return False
    (value,) = (a for a in node.args if a is not others[0])
    node.target, node.args = drop, (value, others[0])
    return True


def _is_random(node: fx.Node) -> bool:
    seen, stack = {node}, [node]
    while stack:
        n = stack.pop()
        if is_random(n):
            return True
        new = [a for a in n.all_input_nodes if a not in seen]
        seen.update(new)
        stack.extend(new)
    return False


def _spelled_out(node: fx.Node, forward: ForwardGraph, order: dict[fx.Node, int]) -> fx.Node | None:
    """The value of which an operation is the norm or activation, spelled out in several; None if it is none."""
    if (quantised := _straight_through(node)) is not None:
        return quantised if _function_of(quantised, node, forward) else None
    if node.target in FUNCTIONS:
        return _single_source(node, forward, order) if find_rule(node.target) is None else None
    if node.target not in LAST_OF_SPELLED_OUT:
        return None
    operands = [a for a in tensor_arguments(node) if a in forward.data]
    alone = len(operands) == 1 and node.target not in EXTREMA and is_number(example(operands[0]))
    return None if alone or not operands else _single_source(node, forward, order)


def _straight_through(node: fx.Node) -> fx.Node | None:
    """The x of ``x + (q - x).detach()``, ``q - x.detach() + x`` or ``q + x - x.detach()``; None of anything else."""
    if node.target is aten.add.Tensor and not node.kwargs:
        for value, other in (node.args, node.args[::-1]):
            inside = _undetached(other)
            if not _is_call(inside, aten.sub.Tensor) or not isinstance(value, fx.Node):
                continue
            detached = inside is not other or inside.args[1] is not value
            if detached and _undetached(inside.args[1]) is _undetached(value):
                return value
    if _is_call(node, aten.sub.Tensor) and _is_call(total := node.args[0], aten.add.Tensor):
        for value in total.args:
            if isinstance(value, fx.Node) and _undetached(node.args[1]) is value and node.args[1] is not value:
                return value
    return None


def _is_call(value: object, op: object) -> TypeGuard[fx.Node]:
    return isinstance(value, fx.Node) and value.target is op and not value.kwargs


def _undetached(value: object) -> object:
    while isinstance(value, fx.Node) and value.target is aten.detach.default:
        value = value.args[0]
    return value


def _function_of(source: fx.Node, node: fx.Node, forward: ForwardGraph) -> bool:
    """Whether an operation depends on the network's input through a single value alone."""
    seen, stack = {source}, [node]
    while stack:
        n = stack.pop()
        if n.op != "call_function":
            return False
        new = [a for a in n.all_input_nodes if a in forward.data and a not in seen]
        seen.update(new)
        stack.extend(new)
    return True


def _single_source(node: fx.Node, forward: ForwardGraph, order: dict[fx.Node, int]) -> fx.Node | None:
    """The nearest value of which a product is a function, entry by entry or by its own mean, variance and norm."""
    frontier = {a for a in node.all_input_nodes if a in forward.data}
    shape = example(node).shape
    for _ in range(_LONGEST):
        if len(frontier) == 1:
            (source,) = frontier
            if is_number(example(source)) and example(source).shape == shape:
                return source
        last = max(frontier, key=order.__getitem__)
        if last.target not in POINTWISE and last.target not in STATISTICS:
            return None
        frontier.remove(last)
        frontier.update(a for a in last.all_input_nodes if a in forward.data)
    return None
