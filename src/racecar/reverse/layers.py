"""Which layers are mirrored and compared, what they are called, and where the reverse pass starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from racecar.errors import ArgumentError
from racecar.forward.graph import ForwardGraph, call_key, example, is_number, module_path, tensor_arguments
from racecar.forward.sums import LinearSum, find_sums
from racecar.options import Options
from racecar.rules import find_rule, recurrent
from racecar.rules.gates import DATA_FIRST
from racecar.rules.identity import CASTS
from racecar.rules.registry import Rule, unchanged

aten = torch.ops.aten


def rule_of(node: fx.Node) -> Rule | None:
    """The reverse rule of a node's operation, if it has one."""
    return find_rule(node.target) if node.op == "call_function" else None


@dataclass(frozen=True)
class Plan:
    """What a reverse pass is to do.

    Attributes:
        starts: the values I_r at which it begins: one, or one for each of the heads that mirrored layers lead to.
        inputs: the compared layers in forward order, each with its data operand L_m.
        path: what lies between those values and the starts, both included: only this needs rules.
        sums: of linear branches, which are mirrored as one layer each.
    """

    starts: tuple[fx.Node, ...]
    inputs: dict[fx.Node, fx.Node]
    path: frozenset[fx.Node]
    sums: Mapping[fx.Node, LinearSum]


class Selection:
    """The user's choice of layers and start, resolved on one forward graph.

    Attributes:
        names: every layer with weights of its own, in forward order, with the name a user knows it by.
        sums: the sum of linear branches that an operation belongs to, if it does.
    """

    def __init__(self, forward: ForwardGraph, nodes: list[fx.Node], options: Options) -> None:
        self.forward, self.nodes, self.options = forward, nodes, options
        self.order = {n: i for i, n in enumerate(nodes)}
        self.names = self._name_layers()
        self.sums = {node: s for s in find_sums(forward, nodes) for node in s.inside}

    def operand(self, node: fx.Node) -> fx.Node | None:
        """The data operand of a layer, or None if its weights depend on the input (attention)."""
        arguments = tensor_arguments(node)
        if node.target in recurrent.LAYERS or node.target in DATA_FIRST:  # the others are states or coefficients
            arguments = arguments[:1]
        data = [n for n in arguments if self.forward.depends_on_input(n)]
        return data[0] if len(data) == 1 else None

    def _name_layers(self) -> dict[fx.Node, str]:
        """Name every candidate layer by its module; by the operation where a module calls several."""
        layers = [n for n in self.nodes if (r := rule_of(n)) and r.layer and self.operand(n) is not None]
        per_call: dict[str, int] = {}
        for n in layers:
            per_call[call_key(n)] = per_call.get(call_key(n), 0) + 1
        stems = {
            n: module_path(n)
            if module_path(n) and per_call[call_key(n)] == 1
            else ".".join(filter(None, (module_path(n), n.name)))
            for n in layers
        }
        names: dict[fx.Node, str] = {}
        uses: dict[str, int] = {}
        for n in layers:
            uses[stems[n]] = uses.get(stems[n], 0) + 1
            names[n] = f"{stems[n]}#{uses[stems[n]]}"
        return {n: name if uses[stems[n]] > 1 else stems[n] for n, name in names.items()}

    def kind(self, node: fx.Node) -> str:
        """``"conv"`` or ``"linear"``."""
        rule = rule_of(node)
        assert rule is not None
        return str(rule.layer)

    def _default_layers(self) -> list[fx.Node]:
        """Convolutions and what acts like one on every position; a conv net leaves its fully connected head out."""
        if not any(self.kind(n) == "conv" for n in self.names):
            return list(self.names)
        return [n for n in self.names if self.kind(n) == "conv" or self._everywhere(n)]

    def _everywhere(self, node: fx.Node) -> bool:
        """Whether a linear layer acts on every token or pixel alike: its input is more than a matrix."""
        value = self.operand(node)
        return value is not None and example(value).ndim > 2

    def plan(self) -> Plan:
        """The user's choice on this graph.

        Raises:
            ArgumentError: an unknown layer or start, one behind the other, or nothing to mirror.
        """
        start = None if self.options.start is None else self._named_start(self.options.start)
        # A start inside of a sum leaves some of its branches out: no sum then.
        self.sums = {node: s for node, s in self.sums.items() if start is None or start not in s.inside[:-1]}
        mirrored, compared = map(self._as_one, self._chosen())
        starts = (start,) if start is not None else self._starts(mirrored)
        before = set[fx.Node]().union(*map(self.ancestors, starts))
        if not self.by_name():
            # What branches off behind the start, or leads to no output, is not on the way back; explain() names it.
            compared = [n for n in compared if n in before]
        if behind := [self.names[n] for n in compared if n not in before]:
            raise ArgumentError(
                f"layers {', '.join(map(repr, behind))} come after the start of the reverse pass: choose a later start="
            )
        if not compared:
            raise ArgumentError("nothing can be mirrored: no mirrored layer lies before the start")
        inputs = {layer: value for layer in compared if (value := self._compared_value(layer)) is not None}
        targets, path = set(inputs.values()), set[fx.Node]()
        for node in self.nodes:
            if node in before and (node in targets or any(a in path for a in node.all_input_nodes)):
                path.add(node)
        return Plan(starts, inputs, frozenset(path), {s.end: s for s in self.sums.values()})

    def _as_one(self, layers: list[fx.Node]) -> list[fx.Node]:
        """Layers with the first of a sum of linear branches in the place of all of them."""
        return list(dict.fromkeys(self.standing_for(n) or n for n in layers))

    def standing_for(self, node: fx.Node) -> fx.Node | None:
        """The layer that stands for the sum of linear branches that an operation belongs to; None if to none."""
        return next((n for n in self.sums[node].inside if n in self.names), None) if node in self.sums else None

    def _compared_value(self, layer: fx.Node) -> fx.Node | None:
        """L_m: a layer's data operand; of a sum of linear branches what they come from."""
        return self.sums[layer].value if layer in self.sums else self.operand(layer)

    def by_name(self) -> bool:
        """Whether the user has named layers, rather than a kind or a number of them."""
        layers = self.options.layers
        return layers is not None and not isinstance(layers, int) and layers not in ("all", "conv")

    def _chosen(self) -> tuple[list[fx.Node], list[fx.Node]]:
        """(mirrored layers, compared layers), both in forward order."""
        layers = self.options.layers
        if not self.names:
            raise ArgumentError(
                "nothing can be mirrored: the model's output does not pass through a linear or convolution layer on "
                "its way from the input"
            )
        if layers is None:
            chosen = self._default_layers()
            return chosen, chosen
        if isinstance(layers, bool) or not isinstance(layers, int | str | Sequence):
            raise ArgumentError(f"layers must be 'conv', 'all', an integer or names, not {layers!r}")
        if isinstance(layers, int):
            mirrored = self._as_one(self._default_layers())
            if not 1 <= layers <= len(mirrored):
                raise ArgumentError(
                    f"layers={layers}: RR^s needs 1 ≤ s ≤ {len(mirrored)}, the number of mirrored layers"
                )
            return mirrored, mirrored[:layers]
        if layers == "all":
            return list(self.names), list(self.names)
        if layers == "conv":
            convs = [n for n in self.names if self.kind(n) == "conv"]
            if not convs:
                raise ArgumentError("layers='conv', but the model has no convolution: use layers='all' or names")
            return convs, convs
        wanted = [layers] if isinstance(layers, str) else list(layers)
        if not wanted:
            raise ArgumentError("layers is empty: name at least one layer, or leave it out")
        picked = {n for name in wanted for n in self._by_name(name)}
        chosen = [n for n in self.names if n in picked]
        return chosen, chosen

    def _by_name(self, name: str) -> list[fx.Node]:
        """A layer, all uses of a module, or all layers inside a module."""
        matches = [
            n for n, known in self.names.items() if name in (known, known.split("#")[0]) or known.startswith(f"{name}.")
        ]
        if not matches:
            known = list(dict.fromkeys(self.names.values()))
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or known[:5]
            raise ArgumentError(f"no layer is called {name!r}; nearest: {', '.join(map(repr, near))}")
        return matches

    def _starts(self, mirrored: list[fx.Node]) -> tuple[fx.Node, ...]:
        """The values I_r: the ends of the blocks that mirrored layers end in.

        One is enough where it lies behind all mirrored layers. Of several heads (an auxiliary classifier, one output
        per task or scale) each has its own; what leads to no output of the model has none.
        """
        results = [n for n in self.forward.outputs if isinstance(n, fx.Node)]
        seen = set[fx.Node]().union(*map(self.ancestors, results))
        left = [n for n in mirrored if n in seen] or mirrored
        starts: list[fx.Node] = []
        while left:
            starts.append(self._last(left) if not starts else self._end_of_block(left[-1]))
            before = self.ancestors(starts[-1])
            left = [n for n in left if n not in before]
        behind = {s for s in starts if any(s in self.ancestors(other) for other in starts if other is not s)}
        return tuple(sorted((s for s in starts if s not in behind), key=self.order.__getitem__))

    def _last(self, mirrored: list[fx.Node]) -> fx.Node:
        """The end of the last mirrored layer's block, or the first value that all mirrored layers lead to."""
        node = self._end_of_block(mirrored[-1])
        if all(n in self.ancestors(node) for n in mirrored):
            return node
        for candidate in self.nodes[self.order[node] :]:
            if candidate in self.forward.data and set(mirrored) <= self.ancestors(candidate):
                return self._end_of_block(candidate)
        return node

    def _end_of_block(self, node: fx.Node) -> fx.Node:
        """Follow a layer's output through norm, activation and residual add (Tables 7 to 16: where I_r is)."""
        after: fx.Node | None = self.sums[node].end if node in self.sums else node
        while after is not None:
            node, after = after, self._after(after)
        return node

    def _after(self, node: fx.Node) -> fx.Node | None:
        """What belongs to the block of the layer that a value comes from, and takes this value alone."""
        spelled_out = [n for n, root in self.forward.pointwise.items() if root is node]
        if spelled_out:
            last = max(spelled_out, key=self.order.__getitem__)
            return last if self.ancestors(last).issuperset(node.users) else None
        if len(node.users) != 1:
            return None
        (user,) = node.users
        rule = rule_of(user)
        if user not in self.forward.data or rule is None or not is_number(example(user)):
            return None
        copies = (rule.reverse is unchanged and rule.range == "through") or user.target in CASTS
        return user if copies or callable(rule.range) or user.target is aten.add.Tensor else None

    def _named_start(self, name: str) -> fx.Node:
        if not isinstance(name, str):
            raise ArgumentError(f"start must be the name of a module or layer, not {name!r}")
        for layer in self.names:
            if self.names[layer] == name:
                return layer
        inside = [n for n in self.nodes if n in self.forward.data and (module_path(n) + ".").startswith(f"{name}.")]
        # Max pooling also gives indices: the pass starts at a value, not at where it was found.
        inside = [n for n in inside if is_number(example(n))] or inside
        if not inside:
            paths = sorted({module_path(n) for n in self.nodes if n in self.forward.data} - {""})
            near = difflib.get_close_matches(name, paths, n=3, cutoff=0.4) or paths[:5]
            raise ArgumentError(
                f"no module on the path is called {name!r}, so the reverse pass cannot start there; "
                f"nearest: {', '.join(map(repr, near))}"
            )
        return inside[-1]

    def ancestors(self, node: fx.Node) -> set[fx.Node]:
        """The node and every data value it is computed from."""
        seen, stack = {node}, [node]
        while stack:
            for n in stack.pop().all_input_nodes:
                if n in self.forward.data and n not in seen:
                    seen.add(n)
                    stack.append(n)
        return seen
