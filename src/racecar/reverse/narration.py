"""The palindrome in words: one row of ``explain()`` per operation that was reversed."""

from __future__ import annotations

from collections.abc import Mapping, Set

from torch import Tensor, fx

from racecar.explanation import Step
from racecar.forward.graph import example, module_path, tensor_arguments
from racecar.reverse.layers import Plan, Selection, rule_of
from racecar.rules.registry import unchanged


def narrate(selection: Selection, walked: Set[fx.Node], compared: Mapping[fx.Node, float]) -> tuple[Step, ...]:
    """The table of a palindrome, in forward order.

    Args:
        selection: layers and their names.
        walked: the operations that were reversed.
        compared: the compared layers from the network's input on, each with the share of its L_m that is regenerated.
    """
    positions = {layer: i for i, layer in enumerate(compared)}
    steps = []
    for node in selection.nodes:
        rule = rule_of(node)
        if node not in walked or rule is None or node in selection.forward.pointwise:
            continue
        layer, value = selection.names.get(node), selection.operand(node)
        shown = example(node if value is None else value)
        steps.append(
            Step(
                layer=layer or module_path(node),
                forward=_operation(node) if layer is None else f"{_operation(node)} {_widths(selection, node)}",
                reverse="(nothing)" if rule.reverse is unchanged else rule.reverse.__name__.replace("_", " "),
                mirrored=layer is not None,
                compared=positions.get(node),
                shape=tuple(shown.shape) if isinstance(shown, Tensor) else (),
                flops=0 if layer is None else _flops(selection, node),
                known=compared.get(node, 1.0),
                within="" if (first := selection.standing_for(node)) in (None, node) else selection.names[first],
            )
        )
    return tuple(steps)


def left_out(selection: Selection, plan: Plan, walked: Set[fx.Node]) -> dict[str, str]:
    """Every layer that the reverse pass does not go through, with the reason.

    Args:
        selection: layers and their names.
        plan: of the reverse pass.
        walked: the operations that were reversed.
    """
    before = set[fx.Node]().union(*map(selection.ancestors, plan.starts))
    reasons = {}
    for layer, name in selection.names.items():
        if layer in walked:
            continue
        if layer not in before:
            reasons[name] = "not on the way back from the start"
        elif layer in plan.path:
            reasons[name] = "nothing comes back to it"
        else:
            reasons[name] = "before the compared layers"
    return reasons


def _operation(node: fx.Node) -> str:
    """``conv2d``, ``batch_norm``; of a function its name."""
    name = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
    if "built-in" in name or name.startswith("<function"):
        name = getattr(node.target, "__name__", name).split(".")[0].replace("_", " ")
    return name


def _sides(selection: Selection, node: fx.Node) -> tuple[Tensor, Tensor, int]:
    """A layer's input and output in the example, and the dimension that holds their channels."""
    value = selection.operand(node)
    assert value is not None
    channel = 1 - max(w.ndim for w in _weights(selection, node)) if selection.kind(node) == "conv" else -1
    return example(value), example(node), channel


def _weights(selection: Selection, node: fx.Node) -> list[Tensor]:
    return [example(n) for n in tensor_arguments(node) if not selection.forward.depends_on_input(n)]


def _widths(selection: Selection, node: fx.Node) -> str:
    taken, given, channel = _sides(selection, node)
    return f"{taken.shape[channel]}→{given.shape[channel]}"


def _flops(selection: Selection, node: fx.Node) -> int:
    """Every weight is used once per position of the side that is not summed over: 2 operations each."""
    taken, given, channel = _sides(selection, node)
    weights = _weights(selection, node)
    most = max(w.ndim for w in weights)
    size = sum(w.numel() for w in weights if w.ndim == most)  # a recurrent layer has two
    side = taken if "transpose" in _operation(node) else given
    return 2 * size * (side.numel() // side.shape[channel])
