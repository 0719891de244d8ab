"""The palindrome: the forward graph, the same operations backwards with the same weights, and the distances between.

Section 3 of the paper. ``build`` walks from the start I_r back to the network's input, appends the reverse of every
operation to the forward graph and compares each layer's input L_m with its regenerated twin L'_m.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from racecar.errors import ArgumentError, IrreversibleError, RuleError
from racecar.explanation import Step
from racecar.forward.graph import ForwardGraph, is_floating, module_path, nodes_in, tensor_arguments, where
from racecar.forward.products import analyse
from racecar.options import Options
from racecar.reverse.builder import KEY, Emitter
from racecar.reverse.known import Known, mean_of_known, nothing, unite, unknown_as_nan
from racecar.reverse.layers import Selection, rule_of
from racecar.reverse.loss import half_squared_distance
from racecar.reverse.masks import Masks
from racecar.reverse.range_maps import Ranges
from racecar.rules.registry import ReverseCall, Rule, unchanged

aten = torch.ops.aten


@dataclass(frozen=True)
class Estimate:
    """What the reverse pass regenerates of one value, and which entries of it are known."""

    node: fx.Node
    known: Known = None


@dataclass(frozen=True)
class Palindrome:
    """A built palindrome.

    Attributes:
        forward: (weights…, inputs…) → (flat outputs, n compared inputs L_m): the forward pass alone.
        training: (weights…, inputs…) → (flat outputs, distances [n]): forward, reverse and loss in one program.
        pairs: (weights…, inputs…) → n pairs (L_m, L'_m).
        layers: the n compared layers' names, from the network's input on.
        homes: for each of them the segment of the reverse pass in which its input is estimated.
        steps: the table of the palindrome, in forward order.
        start: the name of the operation whose output is I_r.
        decoder: names of the weights that follow the model's own: those of an untied decoder, else none.
        sized: whether a mask fixes the sizes of the inputs: None, ``"shape"`` (all but the batch's) or ``"batch"``.
    """

    forward: fx.GraphModule
    training: fx.GraphModule
    pairs: fx.GraphModule
    layers: tuple[str, ...]
    homes: tuple[int, ...]
    steps: tuple[Step, ...]
    start: str
    decoder: tuple[str, ...]
    sized: Literal["shape", "batch"] | None = None


def build(forward: ForwardGraph, model: nn.Module, inputs: Sequence[Any], options: Options) -> Palindrome:
    """Mirror an exported forward graph.

    Args:
        forward: from :func:`racecar.forward.export.export_forward`; its graph is extended in place.
        model: the owner of the weights (only shapes and dtypes are read).
        inputs: the flattened example inputs.
        options: what to compare and how.

    Raises:
        ArgumentError: unknown layer or start, or nothing can be mirrored.
        IrreversibleError: operations without a rule on the path, all of them listed.
        RuleError: a rule failed or returned a wrong shape.
    """
    mirror = _Mirror(forward, model, inputs, options)
    return mirror.build()


class _Mirror:
    """Everything one derivation knows; lives only while it runs."""

    def __init__(self, forward: ForwardGraph, model: nn.Module, inputs: Sequence[Any], options: Options) -> None:
        self.emitter = Emitter(forward, model, inputs)
        self.forward, self.graph, self.nodes, self.options = forward, forward.graph, self.emitter.nodes, options
        self.emit = self.emitter.emit
        analyse(forward, self.nodes)
        self.parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.selection = Selection(forward, self.nodes, options)
        self.names = self.selection.names
        self.steps: dict[fx.Node, Step] = {}
        self.masks = Masks(self.emitter)
        self.ranges = Ranges(self.emitter, options, next(iter(self.names), None), self._reverse_quietly)
        self.homes: dict[fx.Node, int] = {}  # the segment in which a compared value is estimated
        self.distances: dict[fx.Node, fx.Node] = {}  # of each to its estimate

    def build(self) -> Palindrome:
        mirrored, compared = self.selection.chosen()
        start = self.selection.start(mirrored)
        before = self.selection.ancestors(start)
        if not self._named():
            # Heads that branch off (auxiliary classifiers) are not on the way back; explain() shows what is.
            compared = [n for n in compared if n in before]
        if outside := [self.names[n] for n in compared if n not in before]:
            raise ArgumentError(
                f"layers {', '.join(map(repr, outside))} come after the start of the reverse pass: "
                "choose a later start="
            )
        if not compared:
            raise ArgumentError("nothing can be mirrored: no mirrored layer lies before the start")
        targets: dict[fx.Node, fx.Node] = {
            m: value for m in compared if (value := self.selection.operand(m)) is not None
        }
        path = self._path(before, set(targets.values()))
        regenerated = self._walk(start, path, {m: i for i, m in enumerate(compared)}, set(targets.values()))
        compared = self._regenerated(compared, targets, regenerated)

        pairs = [(targets[m], regenerated[targets[m]]) for m in compared]
        stacked = self.emit(torch.stack, [self.distances[left] for left, _ in pairs])
        del stacked.meta[KEY]
        shown = tuple(
            (
                left,
                self.emit(unknown_as_nan, right.node, *masks) if (masks := self.masks.of(right.known)) else right.node,
            )
            for left, right in pairs
        )
        decoder = self._untie() if self.options.untied else ()
        steps = tuple(self.steps[n] for n in self.nodes if n in self.steps)
        return Palindrome(
            self._module((tuple(self.forward.outputs), tuple(left for left, _ in pairs))),
            self._module((tuple(self.forward.outputs), stacked)),
            self._module(shown),
            tuple(self.names[m] for m in compared),
            tuple(self.homes[left] for left, _ in pairs),
            steps,
            self.names.get(start) or module_path(start) or start.name,
            decoder,
            self.masks.sized,
        )

    def _distance(self, left: fx.Node, right: Estimate) -> fx.Node:
        return self.emit(half_squared_distance, left, right.node, self.options.reduction, *self.masks.of(right.known))

    def _regenerated(
        self, compared: list[fx.Node], targets: dict[fx.Node, fx.Node], regenerated: dict[fx.Node, Estimate]
    ) -> list[fx.Node]:
        """The compared layers that an estimate came back to; those that a user has named must be among them."""
        found = [m for m in compared if m in self.steps and targets.get(m) in regenerated]
        without = [m for m in compared if m not in found]
        if without and (self._named() or not found):
            names = ", ".join(repr(self.names[m]) for m in without)
            raise IrreversibleError(
                f"no estimate comes back to the input of {names}: what used it is not known to the reverse pass (the "
                "coefficient of a product, as queries, keys and gates are, or dropped by a select). Choose an earlier "
                "start= or other layers."
            )
        for position, m in enumerate(found):
            share = regenerated[targets[m]].known
            known = 1.0 if share is None else float(share.double().mean())
            self.steps[m] = replace(self.steps[m], compared=position, known=known)
        for m in without:
            if m in self.steps:
                self.steps[m] = replace(self.steps[m], compared=None)
        return found

    def _named(self) -> bool:
        """Whether the user has named layers, rather than a kind or a number of them."""
        layers = self.options.layers
        return layers is not None and not isinstance(layers, int) and layers not in ("all", "conv")

    def _untie(self) -> tuple[str, ...]:
        """Give the reverse pass parameters of its own: inputs of the program after the model's weights."""
        twins: dict[fx.Node, fx.Node] = {}
        forward = set(self.nodes)
        following = (self.forward.weight_nodes[len(self.forward.weights) :] + self.forward.inputs)[0]
        for name, node in zip(self.forward.weights, self.forward.weight_nodes, strict=False):
            if name in self.parameters:
                with self.graph.inserting_before(following):
                    twins[node] = self.graph.placeholder(f"decoder_{node.name}")
                twins[node].meta["example"] = node.meta["example"]
        for node in self.graph.nodes:
            if node not in forward and node.op != "output":
                self._check_untied(node, forward, twins.keys())
                node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda n: twins.get(n, n))  # type: ignore[assignment]
        self.nodes.extend(twins.values())
        return tuple(name for name in self.forward.weights if name in self.parameters)

    def _check_untied(self, node: fx.Node, forward: Set[fx.Node], parameters: Set[fx.Node]) -> None:
        for value in node.all_input_nodes:
            if value in forward and value.op == "call_function" and value not in self.forward.data:
                if parameters.isdisjoint(nodes_in((value.args, value.kwargs))):
                    continue
                raise ArgumentError(
                    f"decoder: the reverse pass uses a weight computed from parameters ({value.target} in module "
                    f"{module_path(value)!r}): an untied decoder needs plain parameters"
                )

    def _module(self, output: Any) -> fx.GraphModule:
        """A program of its own: all forward operations (they may have effects), of the reverse what is used."""
        used: set[fx.Node] = set(self.nodes)
        used.update(nodes_in(output))
        for node in reversed(self.graph.nodes):
            if node in used:
                used.update(node.all_input_nodes)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if node.op != "output" and node in used:
                copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(fx.map_arg(output, lambda n: copies[n]))
        return fx.GraphModule(self.forward.root, graph, class_name="Palindrome")

    def _path(self, before: set[fx.Node], targets: set[fx.Node]) -> set[fx.Node]:
        """What lies between the compared inputs and the start, both included: only this needs rules."""
        path: set[fx.Node] = set()
        for node in self.nodes:
            if node in before and (node in targets or any(a in path for a in node.all_input_nodes)):
                path.add(node)
        return path

    def _walk(
        self, start: fx.Node, path: set[fx.Node], compared: dict[fx.Node, int], targets: set[fx.Node]
    ) -> dict[fx.Node, Estimate]:
        """Estimates of every value on the path that one comes back to, from the start back."""
        incoming: dict[fx.Node, list[Any]] = {start: [Estimate(start)]}
        raw: set[fx.Node] = set()  # values whose estimate left a layer's adjoint and has no range yet
        final: dict[fx.Node, Estimate] = {}
        missing: dict[str, None] = {}
        for node in reversed(self.nodes):
            estimates = incoming.get(node)
            if node not in path or not estimates:
                continue
            if isinstance(estimates[0], dict):  # an operation with several outputs
                estimate: Any = {k: v for part in estimates for k, v in part.items()}
            else:
                estimate = self._mean(estimates)
                if node in raw:
                    estimate = replace(estimate, node=self.ranges.into(node, estimate.node))
                final[node] = estimate
                if node in targets:
                    # At once: autograd goes back in the opposite order, and a gradient of L'_m is then used up at once.
                    self.distances[node] = self._distance(node, estimate)
                    self.homes[node] = self.emitter.segment
                    self.emitter.segment += 1
                    if self.options.layerwise:  # the layers before are reversed from the forward value itself
                        estimate = Estimate(node)
            if not any(a in path for a in node.all_input_nodes):
                continue  # a compared input whose own producer is not walked
            if lacking := self._lacks_rule(node):
                missing[lacking] = None
                # Stand-ins for what no rule can estimate, so that whatever lies further back is examined as well.
                pieces = [(a, Estimate(a)) for a in node.all_input_nodes if is_floating(a.meta.get("example"))]
            else:
                pieces = self._reverse(node, estimate, compared.get(node))
            for value, piece in pieces:
                if value in path:
                    incoming.setdefault(value, []).append(piece)
                    if node in self.names:
                        raw.add(value)
        if missing:
            raise IrreversibleError(
                "the reverse pass meets operations without a reverse rule:\n"
                + "\n".join(reversed(missing))
                + "\nRegister a rule with racecar.register_reverse(op, reverse), or choose start= before them."
            )
        return final

    def _lacks_rule(self, node: fx.Node) -> str | None:
        """A line for an operation that has no rule, or not for its operands."""
        if node.target is operator.getitem or node.op == "call_module" or node in self.forward.pointwise:
            return None
        rule = rule_of(node)
        operands = sum(self._estimated(node))
        if rule is not None and rule.operands in (None, operands):
            return None
        several = f" with {operands} operands that depend on the input" if rule is not None else ""
        return f"  {where(node, several)}"

    def _estimated(self, node: fx.Node) -> tuple[bool, ...]:
        """Which tensor arguments are to be estimated: data, but of a product not its coefficient."""
        coefficient = self.forward.coefficients.get(node)
        return tuple(n in self.forward.data and i != coefficient for i, n in enumerate(tensor_arguments(node)))

    def _mean(self, estimates: list[Estimate]) -> Estimate:
        if len(estimates) == 1:
            return estimates[0]
        if any(e.known is not None for e in estimates):
            masks = [self.masks.node(e.known) if e.known is not None else None for e in estimates]
            mean = self.emit(mean_of_known, [e.node for e in estimates], masks)
            return Estimate(mean, unite([e.known for e in estimates]))
        total = estimates[0].node
        for other in estimates[1:]:
            total = self.emit(operator.add, total, other.node)
        return Estimate(self.emit(operator.truediv, total, len(estimates)))

    def _reverse(self, node: fx.Node, estimate: Any, position: int | None) -> list[tuple[fx.Node, Any]]:
        """Apply the reverse rule; pairs of (forward value, its estimate)."""
        if node.target is operator.getitem:
            return [(node.args[0], {node.args[1]: estimate})]  # type: ignore[list-item]
        if node.op == "call_module":  # hooks
            return [(node.args[-1], estimate)]  # type: ignore[list-item]
        if node in self.forward.pointwise:  # a norm or activation that the model spells out
            return [(self.forward.pointwise[node], estimate)]
        rule = rule_of(node)
        assert rule is not None
        arguments, data = tensor_arguments(node), self._estimated(node)
        self._describe(node, rule, position)
        if rule.reverse is unchanged:
            return [(arguments[data.index(True)], estimate)]
        estimate, known = self._completed(node, estimate)
        outputs = len(known) if isinstance(known, list) else 1
        call = ReverseCall(data, (None,) * outputs, node in self.forward.averages)
        partial = any(k is not None for k in known) if isinstance(known, list) else known is not None
        given = estimate
        place = where(node)
        masks: Any = None
        try:
            kwargs: dict[str, Any] = dict(node.kwargs)
            if partial:
                given, call = self.masks.informed(estimate, known, call)
            if rule.context:
                kwargs["context"] = call
            result = self.emit(
                rule.reverse, given, *self.emitter.arguments(rule.reverse, given, node, kwargs), **kwargs
            )
            if partial or rule.partial:
                if rule.context:
                    kwargs["context"] = call._replace(known=(None,) * outputs)
                masks = self.masks.passed_on(rule, node, estimate, known, kwargs)
        except Exception as error:
            raise RuleError(f"the reverse rule {rule.reverse.__name__} of {place} failed: {error}") from error
        example = result.meta["example"]
        several = isinstance(example, tuple | list)
        if several and len(example) > len(arguments):
            raise RuleError(
                f"the reverse rule of {place} returned {len(example)} estimates for {len(arguments)} tensors"
            )
        if several:
            values = arguments[: len(example)]
            nodes = [self.emit(operator.getitem, result, i) if e is not None else None for i, e in enumerate(example)]
        else:
            values, nodes = [arguments[data.index(True)]], [result]
        for value, piece in zip(values, nodes, strict=True):
            if value in self.forward.data:
                self._check_shape(value, piece, place)
        if not isinstance(masks, list):
            masks = [masks] * len(values)
        for value, mask in zip(values, masks, strict=False):
            self.masks.note(value, mask)
        return [
            (value, Estimate(piece, mask))
            for value, piece, mask, wanted in zip(values, nodes, masks, data, strict=False)
            if value in self.forward.data and piece is not None and not nothing(mask) and (wanted or not several)
        ]

    def _completed(self, node: fx.Node, estimate: Any) -> tuple[Any, Any]:
        """(nodes, masks): of an operation with several outputs one each, zeros where nothing came back."""
        if isinstance(estimate, Estimate):
            return estimate.node, estimate.known
        nodes, masks = [], []
        for i, part in enumerate(node.meta["example"]):
            if i in estimate:
                nodes.append(estimate[i].node)
                masks.append(estimate[i].known)
            else:
                nodes.append(self.emit(_nothing_of, node, i))
                masks.append(torch.zeros((1,) * part.ndim, dtype=torch.bool))
        return nodes, masks

    def _check_shape(self, value: fx.Node, piece: fx.Node | None, place: str) -> None:
        if piece is None:
            return
        expected, got = value.meta["example"].shape, getattr(piece.meta["example"], "shape", None)
        if got != expected:
            raise RuleError(
                f"the reverse rule of {place} returned shape {None if got is None else tuple(got)} where the forward "
                f"operation took {tuple(expected)}"
            )

    def _reverse_quietly(self, node: fx.Node, estimate: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        known = self.steps.get(node)
        pieces = self._reverse(node, Estimate(estimate), None)
        self.steps.pop(node, None)
        if known is not None:
            self.steps[node] = known
        return [(value, piece.node) for value, piece in pieces]

    # --- words for explain() --------------------------------------------------------------------------------------

    def _describe(self, node: fx.Node, rule: Rule, position: int | None) -> None:
        name = (
            str(node.target).removeprefix("aten.").split(".")[0].rstrip("_") if node.op == "call_function" else "hook"
        )
        if "built-in" in name or name.startswith("<function"):
            name = getattr(node.target, "__name__", name).split(".")[0].replace("_", " ")
        forward, flops, layer = name, 0, self.names.get(node)
        value = self.selection.operand(node)
        shape = (
            tuple((value or node).meta["example"].shape) if isinstance((value or node).meta["example"], Tensor) else ()
        )
        if layer is not None and value is not None:
            weights = [n.meta["example"] for n in tensor_arguments(node) if not self.forward.depends_on_input(n)]
            weight = max(weights, key=lambda t: t.ndim)
            size = sum(w.numel() for w in weights if w.ndim == weight.ndim)  # a recurrent layer has two
            transposed = "transpose" in name
            channel = 1 - weight.ndim if self.selection.kind(node) == "conv" else -1
            taken, given = value.meta["example"], node.meta["example"]
            forward = f"{name} {taken.shape[channel]}→{given.shape[channel]}"
            # Every weight is used once per position of the side that is not summed over.
            side = taken if transposed else given
            flops = 2 * size * (side.numel() // side.shape[channel])
        reverse = "(nothing)" if rule.reverse is unchanged else rule.reverse.__name__.replace("_", " ")
        self.steps[node] = Step(layer or module_path(node), forward, reverse, layer is not None, position, shape, flops)


def _nothing_of(outputs: Sequence[Tensor], index: int) -> Tensor:
    """Zeros in the place of an output to which no estimate came back."""
    return torch.zeros_like(outputs[index])
