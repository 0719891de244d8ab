"""The palindrome: the forward graph, the same operations backwards with the same weights, and the distances between.

Section 3 of the paper. ``build`` walks from the start I_r back to the network's input, appends the reverse of every
operation to the forward graph and compares each layer's input L_m with its regenerated twin L'_m.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from racecar.errors import ArgumentError, IrreversibleError, RuleError
from racecar.forward import ForwardGraph, module_path, nodes_in, tensor_arguments
from racecar.knowledge import Known, mean_of_known, nothing, passed_on, united, unknown_as_nan
from racecar.loss import half_squared_distance
from racecar.products import analyse
from racecar.rules.normalization import batch_norm_separate, batch_norm_shared
from racecar.rules.registry import Rule, filled, unchanged
from racecar.segments import KEY
from racecar.selection import Options, Selection, rule_of
from racecar.sizes import reads_sizes_alone, size_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Step:
    """One forward operation on the path and its reverse: a row of :meth:`racecar.Racecar.explain`.

    Attributes:
        layer: the layer's name (module path; ``"#2"`` marks the second use), or the module of another operation.
        forward: the forward operation, e.g. ``"conv2d 3→64"``.
        reverse: what the reverse pass does for it.
        mirrored: whether it is a layer with weights that the reverse pass reuses.
        compared: the position of λ_m if L_m, this layer's input, is compared; else None.
        shape: shape of L_m in the example.
        flops: floating-point operations of the layer for the example, the same in both directions.
        known: share of L_m's entries that the reverse pass regenerates; the others take no part in the loss.
    """

    layer: str
    forward: str
    reverse: str
    mirrored: bool
    compared: int | None
    shape: tuple[int, ...]
    flops: int
    known: float = 1.0


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
        forward: from :func:`racecar.export.export_forward`; its graph is extended in place.
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
        self.forward, self.graph, self.options = forward, forward.graph, options
        self.nodes = [n for n in self.graph.nodes if n.op != "output"]
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._run_example(model, inputs)
        analyse(forward, self.nodes)
        self.parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.selection = Selection(forward, self.nodes, options)
        self.names = self.selection.names
        self.steps: dict[fx.Node, Step] = {}
        self.real: dict[fx.Node, Tensor] = {}
        self.masks: dict[Any, fx.Node] = {}
        self.sized: Literal["shape", "batch"] | None = None
        self.segment = 0  # of the reverse pass, counted from the start on
        self.homes: dict[fx.Node, int] = {}  # the segment in which a compared value is estimated
        self.sizes: dict[fx.Node, fx.Node] = {}  # stand-ins of values of which rules read the size alone
        self.distances: dict[fx.Node, fx.Node] = {}  # of each to its estimate

    # --- the forward pass on fake tensors: shapes of the example, no memory, no arithmetic -----------------------

    def _run_example(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        tensors = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        values = [tensors[name] for name in self.forward.weights] + self.forward.constants
        self.values = dict(zip(self.forward.weight_nodes, values, strict=True))
        with torch.no_grad():
            for node, value in zip([*self.forward.weight_nodes, *self.forward.inputs], [*values, *inputs], strict=True):
                node.meta["example"] = self.fake.from_tensor(value.detach()) if isinstance(value, Tensor) else value
            for node in self.nodes:
                if node.op == "call_function":
                    node.meta["example"] = self._evaluate(node.target, node.args, node.kwargs)
                elif node.op == "call_module":  # the user's hooks: what they may change keeps its shape
                    node.meta["example"] = node.args[-1].meta["example"]

    def _evaluate(self, function: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = fx.map_arg((args, kwargs), lambda n: n.meta["example"])
        with self.fake, torch.no_grad():
            return function(*args, **kwargs)

    def emit(self, function: Callable[..., Any], *args: Any, name: str | None = None, **kwargs: Any) -> fx.Node:
        """Append a call to the graph and evaluate it on the example."""
        example = self._evaluate(function, args, kwargs)
        node = self.graph.create_node("call_function", function, args, kwargs, name=name)
        node.meta["example"] = example
        node.meta[KEY] = self.segment
        return node

    # --- the walk back --------------------------------------------------------------------------------------------

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
            (left, self.emit(unknown_as_nan, right.node, *masks) if (masks := self._masked(right)) else right.node)
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
            self.sized,
        )

    def _distance(self, left: fx.Node, right: Estimate) -> fx.Node:
        return self.emit(half_squared_distance, left, right.node, self.options.reduction, *self._masked(right))

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

    def _masked(self, estimate: Estimate) -> tuple[fx.Node, ...]:
        """The node of an estimate's mask, if it has one."""
        return () if estimate.known is None else (self._mask(estimate.known),)

    def _mask(self, known: Tensor) -> fx.Node:
        """A mask as a constant of the programs."""
        key = (tuple(known.shape), known.numpy().tobytes())
        if key not in self.masks:
            with self.graph.inserting_before(self.forward.inputs[0]):
                node = self.graph.placeholder(f"known_{len(self.masks)}")
            example = next((v for v in self.values.values() if isinstance(v, Tensor)), known)
            constant = known.to(example.device)
            node.meta["example"] = self.fake.from_tensor(constant)
            self.forward.constants.append(constant)
            self.forward.weight_nodes.append(node)
            self.nodes.append(node)
            self.masks[key] = node
            self.sized = self.sized or "shape"
        return self.masks[key]

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
                    estimate = replace(estimate, node=self._into_range(node, estimate.node))
                final[node] = estimate
                if node in targets:
                    # At once: autograd goes back in the opposite order, and a gradient of L'_m is then used up at once.
                    self.distances[node] = self._distance(node, estimate)
                    self.homes[node] = self.segment
                    self.segment += 1
                    if self.options.layerwise:  # the layers before are reversed from the forward value itself
                        estimate = Estimate(node)
            if not any(a in path for a in node.all_input_nodes):
                continue  # a compared input whose own producer is not walked
            if lacking := self._lacks_rule(node):
                missing[lacking] = None
                # Stand-ins for what no rule can estimate, so that whatever lies further back is examined as well.
                pieces = [(a, Estimate(a)) for a in node.all_input_nodes if _is_floating(a.meta.get("example"))]
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
        return f"  {_where(node, several)}"

    def _estimated(self, node: fx.Node) -> tuple[bool, ...]:
        """Which tensor arguments are to be estimated: data, but of a product not its coefficient."""
        coefficient = self.forward.coefficients.get(node)
        return tuple(n in self.forward.data and i != coefficient for i, n in enumerate(tensor_arguments(node)))

    def _mean(self, estimates: list[Estimate]) -> Estimate:
        if len(estimates) == 1:
            return estimates[0]
        if any(e.known is not None for e in estimates):
            masks = [self._mask(e.known) if e.known is not None else None for e in estimates]
            mean = self.emit(mean_of_known, [e.node for e in estimates], masks)
            return Estimate(mean, united([e.known for e in estimates]))
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
        parameters = inspect.signature(rule.reverse).parameters
        kwargs: dict[str, Any] = dict(node.kwargs)
        if "data" in parameters:
            kwargs["data"] = data
        if node in self.forward.averages and "average" in parameters:
            kwargs["average"] = True
        partial = any(k is not None for k in known) if isinstance(known, list) else known is not None
        given, informed = estimate, dict(kwargs)
        where = _where(node)
        masks: Any = None
        try:
            if partial:
                informed, given = self._informed(rule, estimate, known, kwargs)
            result = self.emit(rule.reverse, given, *self._arguments(rule.reverse, given, node, informed), **informed)
            if partial or rule.partial:
                masks = self._passed_on(rule, node, estimate, known, kwargs)
        except Exception as error:
            raise RuleError(f"the reverse rule {rule.reverse.__name__} of {where} failed: {error}") from error
        example = result.meta["example"]
        several = isinstance(example, tuple | list)
        if several and len(example) > len(arguments):
            raise RuleError(
                f"the reverse rule of {where} returned {len(example)} estimates for {len(arguments)} tensors"
            )
        if several:
            values = arguments[: len(example)]
            nodes = [self.emit(operator.getitem, result, i) if e is not None else None for i, e in enumerate(example)]
        else:
            values, nodes = [arguments[data.index(True)]], [result]
        for value, piece in zip(values, nodes, strict=True):
            if value in self.forward.data:
                self._check_shape(value, piece, where)
        if not isinstance(masks, list):
            masks = [masks] * len(values)
        for value, mask in zip(values, masks, strict=False):
            self._note_sizes(value, mask)
        return [
            (value, Estimate(piece, mask))
            for value, piece, mask, wanted in zip(values, nodes, masks, data, strict=False)
            if value in self.forward.data and piece is not None and not nothing(mask) and (wanted or not several)
        ]

    def _arguments(self, function: Any, estimate: Any, node: fx.Node, kwargs: Any) -> tuple[Any, ...]:
        """Those of the forward operation; of data that the rule reads for its size alone, a stand-in."""
        data = [n for n in dict.fromkeys(nodes_in(node.args)) if n in self.forward.data and n.op == "call_function"]
        data = [n for n in data if isinstance(n.meta["example"], Tensor) and n.meta["example"].ndim]
        given, kwargs = fx.map_arg((estimate, kwargs), lambda n: n.meta["example"])

        def works(values: list[fx.Node]) -> bool:
            def call(tells_size: Callable[[Tensor], Tensor]) -> object:
                sizes = {n: tells_size(n.meta["example"]) for n in values}
                args = fx.map_arg(node.args, lambda n: sizes[n] if n in sizes else n.meta["example"])
                with self.fake, torch.no_grad():
                    return function(given, *args, **kwargs)

            return reads_sizes_alone(call)

        sized = data if works(data) else [n for n in data if works([n])]
        return fx.map_arg(node.args, lambda n: self._size(n) if n in sized else n)  # type: ignore[return-value]

    def _size(self, value: fx.Node) -> fx.Node:
        """The stand-in of a forward value, made where that is."""
        if value not in self.sizes:
            with self.graph.inserting_after(value):
                self.sizes[value] = self.graph.call_function(size_of, (value,))
            self.sizes[value].meta.update({k: value.meta[k] for k in ("example", "val") if k in value.meta})
        return self.sizes[value]

    def _note_sizes(self, value: fx.Node, mask: Known) -> None:
        """A mask that differs along a dimension that may vary holds for this very batch."""
        sizes = getattr(value.meta.get("val"), "shape", ())
        free = [isinstance(s, torch.SymInt) for s in sizes]
        if mask is not None and any(m > 1 and f for m, f in zip(mask.shape, free, strict=False)):
            self.sized = "batch"

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

    def _informed(self, rule: Rule, estimate: Any, known: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The arguments of a rule that meets an estimate of which not everything is known."""
        many = isinstance(known, list)
        masks = [None if k is None else self._mask(k) for k in (known if many else [known])]
        given = [
            e if m is None else self.emit(filled, e, m)
            for e, m in zip(estimate if many else [estimate], masks, strict=True)
        ]
        if "known" in inspect.signature(rule.reverse).parameters:
            kwargs = {**kwargs, "known": masks if many else masks[0]}
        return kwargs, (given if many else given[0])

    def _passed_on(self, rule: Rule, node: fx.Node, estimate: Any, known: Any, kwargs: dict[str, Any]) -> Any:
        args, kwargs = fx.map_arg((node.args, kwargs), self._real)
        examples = fx.map_arg(estimate, lambda n: n.meta["example"])
        return passed_on(rule.informs or rule.reverse, examples, known, args, kwargs)

    def _real(self, node: fx.Node) -> Any:
        """A value for asking how knowledge passes: ones, but constants such as indices as they are."""
        example = node.meta["example"]
        if isinstance(example, tuple | list):
            return type(example)(self._one(e) for e in example)
        if not isinstance(example, Tensor):
            return example
        if _is_floating(example) or node in self.forward.data:
            return self._one(example)
        if node not in self.real:
            if node in self.values:
                self.real[node] = self.values[node].detach().cpu()
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), self._real)
                kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
                self.real[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self.real[node]

    @staticmethod
    def _one(example: Any) -> Any:
        if not isinstance(example, Tensor):
            return example
        return torch.ones((), dtype=torch.float64 if _is_floating(example) else example.dtype).expand(example.shape)

    def _check_shape(self, value: fx.Node, piece: fx.Node | None, where: str) -> None:
        if piece is None:
            return
        expected, got = value.meta["example"].shape, getattr(piece.meta["example"], "shape", None)
        if got != expected:
            raise RuleError(
                f"the reverse rule of {where} returned shape {None if got is None else tuple(got)} where the forward "
                f"operation took {tuple(expected)}"
            )

    def _into_range(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """Map an estimate to the range of the forward value: the norm and activation that produced it."""
        if node.op == "placeholder":
            return self._input_range(estimate)
        if node.op == "call_module":
            return self._into_range(node.args[-1], estimate)  # type: ignore[arg-type]
        if node in self.forward.pointwise:
            return self._pointwise_again(node, self._into_range(self.forward.pointwise[node], estimate))
        rule = rule_of(node)
        if rule is None or rule.range is None or node.target is operator.getitem:
            return estimate
        arguments = [n for n in tensor_arguments(node) if n in self.forward.data]
        if not arguments:
            return estimate
        fits = estimate.meta["example"].shape == arguments[0].meta["example"].shape
        if rule.range == "through" and (fits or not self._moves(arguments[0])):
            return self._into_range(arguments[0], estimate)
        # A move below fits the value before pooling or upsampling, not the one after: the range is found at that size.
        if rule.range in ("through", "within"):
            pieces = self._reverse_quietly(node, estimate)
            mapped: dict[fx.Node, list[fx.Node]] = {}  # per use: cat may take one value twice
            for value, piece in pieces:
                mapped.setdefault(value, []).append(self._into_range(value, piece))
            if all(piece in mapped[value] for value, piece in pieces):
                return estimate
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: mapped[n].pop(0) if mapped.get(n) else n)
            again = _RESHAPES.get(node.target, node.target)  # type: ignore[arg-type]
            return self.emit(again, *args, **kwargs)  # type: ignore[arg-type]
        before = self._into_range(arguments[0], estimate)
        where = _where(node)
        function = self._norm(rule.range)
        try:
            given = self._arguments(function, before, node, node.kwargs)
            mapped_estimate = self.emit(function, before, *given, **node.kwargs)  # type: ignore[arg-type]
        except Exception as error:
            raise RuleError(f"the range map of {where} failed: {error}") from error
        got = getattr(mapped_estimate.meta["example"], "shape", None)
        if got != before.meta["example"].shape:
            raise RuleError(
                f"the range map of {where} must keep the shape {tuple(before.meta['example'].shape)}, it returned "
                f"{None if got is None else tuple(got)}"
            )
        return mapped_estimate

    def _moves(self, node: fx.Node) -> bool:
        """Whether the way to the norm and activation that made a value leads through an operation that moves values."""
        while node.op == "call_function" and (rule := rule_of(node)) and rule.range is not None:
            inside = [n for n in tensor_arguments(node) if n in self.forward.data]
            if rule.range == "within":
                return True
            if not inside:
                return False
            node = inside[0]
        return False

    def _reverse_quietly(self, node: fx.Node, estimate: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        known = self.steps.get(node)
        pieces = self._reverse(node, Estimate(estimate), None)
        self.steps.pop(node, None)
        if known is not None:
            self.steps[node] = known
        return [(value, piece.node) for value, piece in pieces]

    def _pointwise_again(self, node: fx.Node, estimate: fx.Node) -> fx.Node:
        """A norm or activation that the model spells out in several operations, applied to the estimate."""
        copies = {self.forward.pointwise[node]: estimate}

        def again(n: fx.Node) -> fx.Node:
            if n not in self.forward.data:
                return n
            if n not in copies:
                args, kwargs = fx.map_arg((n.args, n.kwargs), again)
                copies[n] = self.emit(n.target, *args, **kwargs)  # type: ignore[arg-type]
            return copies[n]

        return again(node)

    def _norm(self, function: Any) -> Any:
        if function is batch_norm_separate and self.options.norm_statistics == "shared":
            return batch_norm_shared
        return function

    # --- the network's input --------------------------------------------------------------------------------------

    def _input_range(self, estimate: fx.Node) -> fx.Node:
        choice = self.options.input_range
        if choice is None or not estimate.meta["example"].is_floating_point():
            return estimate
        if choice == "paper":
            if any(n.target is aten.batch_norm.default for n in self.nodes):
                estimate = self.emit(plain_batch_norm, estimate)
            activation = self._first_activation()
            if activation is not None:
                rule = rule_of(activation)
                estimate = self.emit(rule.range, estimate, *activation.args, **activation.kwargs)  # type: ignore[union-attr,arg-type]
            return estimate
        self.forward.root.add_module("input_range", _Call(choice))
        node = self.graph.call_module("input_range", (estimate,))
        try:
            node.meta["example"] = self._evaluate(choice, (estimate,), {})
        except Exception as error:
            raise ArgumentError(
                f"input_range failed on an estimate of shape {tuple(estimate.meta['example'].shape)}: {error}"
            ) from error
        if getattr(node.meta["example"], "shape", None) != estimate.meta["example"].shape:
            raise ArgumentError("input_range must keep the shape of its argument")
        return node

    def _first_activation(self) -> fx.Node | None:
        """The activation after the first mirrored layer (Tables 7, 9, 11, 13: the last step of the reverse pass)."""
        node: fx.Node | None = next(iter(self.names))
        while node is not None:
            users = [u for u in node.users if u in self.forward.data]
            node = next((u for u in users if (r := rule_of(u)) and callable(r.range)), None)
            if node is not None and not _is_norm(node):
                return node
        return None

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


# An estimate need not lie in memory as the forward value does.
_RESHAPES: dict[Any, Any] = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


def _is_floating(example: object) -> bool:
    return isinstance(example, Tensor) and example.is_floating_point()


def _nothing_of(outputs: Sequence[Tensor], index: int) -> Tensor:
    """Zeros in the place of an output to which no estimate came back."""
    return torch.zeros_like(outputs[index])


def _where(node: fx.Node, detail: str = "") -> str:
    """An operation and its module, for messages."""
    return f"{node.target}{detail} in module {module_path(node) or '(the model itself)'!r}"


def plain_batch_norm(estimate: Tensor) -> Tensor:
    """Batch norm without parameters: the regenerated input of nets with BN (Table 11)."""
    return F.batch_norm(estimate, None, None, None, None, True, 0.0, 1e-5)


def _is_norm(node: fx.Node) -> bool:
    return "norm" in str(node.target)


class _Call(nn.Module):
    """A user's function as a module, so that a graph can call it whatever its name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, estimate: Tensor) -> Tensor:
        return self.function(estimate)
