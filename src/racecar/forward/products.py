"""Products of two activations, read off the forward graph before it is mirrored.

A product is linear in one of its operands, the *value*: the reverse pass estimates that one, with the forward value of
the other, the *coefficient*: gates (squeeze-excitation, GLU), attention weights, weights that a network computes. A
product in which both operands are functions of one value, entry by entry or by its mean and variance, is no product
but a norm or activation spelled out (``x * sigmoid(x)``): nothing on the way back, and range map (Section 3). A product
with random numbers is dropout (stochastic depth).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from racecar.forward.graph import ForwardGraph, example, tensor_arguments
from racecar.rules import find_rule
from racecar.rules.identity import drop

aten = torch.ops.aten

_PRODUCTS = {aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor}
_MATRIX_PRODUCTS = {aten.matmul.default, aten.bmm.default, aten.mm.default, aten.einsum.default}
_POINTWISE = {
    *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.mul.Tensor),
    *(aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.reciprocal.default),
    *(aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar, aten.square.default, aten.exp.default),
    *(aten.tanh.default, aten.sigmoid.default, aten.erf.default, aten.relu.default, aten.softplus.default),
    *(aten.hardsigmoid.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default, aten.abs.default),
    *(aten.log.default, aten.log1p.default, aten.to.dtype, aten._to_copy.default),
}
_REDUCTIONS = {
    *(aten.mean.dim, aten.sum.dim_IntList, aten.var.correction, aten.std.correction, aten.var.dim, aten.std.dim),
    *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.expand.default, aten.expand_as.default),
}
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
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
        operands = [a for a in tensor_arguments(node) if a in forward.data]
        if len(operands) < 2:
            continue
        if node.target in _PRODUCTS and (root := _single_source(node, forward, order)) is not None:
            forward.pointwise[node] = root
            continue
        position = _coefficient(node, forward)
        if position is not None:
            forward.coefficients[node] = position
            if node.target in _MATRIX_PRODUCTS and _is_attention(tensor_arguments(node)[position], forward):
                forward.averages.add(node)


def _coefficient(node: fx.Node, forward: ForwardGraph) -> int | None:
    """The position of the coefficient among the tensor arguments of a product of two activations."""
    arguments = tensor_arguments(node)
    rule = find_rule(node.target)
    if node.target is aten.div.Tensor:
        return 1
    if node.target is aten.mul.Tensor:
        a, b = arguments[:2]
        sizes = [example(n).numel() for n in (a, b)]
        if sizes[0] != sizes[1]:
            return sizes.index(min(sizes))
        for kinds in (_GATES, _BOUNDED, None):
            found = [_is_activation(n, kinds) for n in (a, b)]
            if found[0] != found[1]:
                return found.index(True)
        return 1
    if node.target in _MATRIX_PRODUCTS and len(arguments) == 2:
        attention = [_is_attention(n, forward) for n in arguments]
        return attention.index(True) if any(attention) else 0
    if rule is not None and rule.layer is not None and arguments[0] in forward.data and len(arguments) > 1:
        return 1 if arguments[1] in forward.data else None  # weights that the network computes itself
    return None


# Of sigmoid(a) * tanh(b), as recurrent cells have it, the sigmoid is the gate.
_GATES = {aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int}
_BOUNDED = {*_GATES, aten.tanh.default, aten.hardtanh.default}


def _is_activation(node: fx.Node, kinds: set[Any] | None) -> bool:
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
    while node.op == "call_function" and node.target not in _SOFTMAX:
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
        if isinstance(n.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in n.target.tags:
            return True
        new = [a for a in n.all_input_nodes if a not in seen]
        seen.update(new)
        stack.extend(new)
    return False


def _single_source(node: fx.Node, forward: ForwardGraph, order: dict[fx.Node, int]) -> fx.Node | None:
    """The nearest value of which a product is a function, entry by entry or by its own mean, variance and norm."""
    frontier = {a for a in node.all_input_nodes if a in forward.data}
    shape = example(node).shape
    for _ in range(_LONGEST):
        if len(frontier) == 1:
            (source,) = frontier
            if getattr(example(source), "shape", None) == shape:
                return source
        last = max(frontier, key=order.__getitem__)
        if last.target not in _POINTWISE and last.target not in _REDUCTIONS:
            return None
        frontier.remove(last)
        frontier.update(a for a in last.all_input_nodes if a in forward.data)
    return None
