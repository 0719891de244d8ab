"""Both passes computed again block by block in the backward pass: ``Racecar(…, checkpoint="both")``.

The forward pass keeps what is live at the cuts between groups of blocks (:mod:`racecar.passes.blocks`), the reverse
pass its estimates there. The reverse pass of a block computes once more the forward values that it reads, the backward
pass everything again. Random numbers are drawn again as they were; running statistics are counted once.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from racecar.errors import ArgumentError
from racecar.forward.graph import changed_memory, is_random, where
from racecar.passes.blocks import divide_forward, is_light
from racecar.passes.sync_batch_norm import synchronised_batch_norm
from racecar.reverse.builder import segment
from racecar.reverse.size_only import size_of
from racecar.rules.normalization import COUNTING

_now = threading.local()  # whether this thread computes something again


class Recomputed(nn.Module):
    """A part of a program that keeps its inputs alone.

    Args:
        body: what it computes.
        random: it draws numbers.
        again: what it computes of the forward pass has been computed before.
    """

    def __init__(self, body: fx.GraphModule, random: bool, again: bool) -> None:
        super().__init__()
        self.body, self.random, self.again = body, random, again

    def forward(self, *values: Any) -> Any:
        """What the body gives."""
        if not torch.is_grad_enabled():
            with _again() if self.again else contextlib.nullcontext():
                return self.body(*values)
        return checkpoint(
            self.body,
            *values,
            use_reentrant=False,
            preserve_rng_state=self.random,
            context_fn=_twice_again if self.again else _first_and_again,
        )


class Replayed(nn.Module):
    """A part of a program that draws the numbers that were drawn from a state of the generator; that stays as it is."""

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self.body = body

    def forward(self, state: Tensor, *values: Any) -> Any:
        """What the body gives."""
        device = next((v.device for v in values if isinstance(v, Tensor) and v.is_cuda), None)
        with torch.random.fork_rng([] if device is None else [device]):
            if device is None:
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, device)
            return self.body(*values)


def rng_state(near: Tensor) -> Tensor:
    """That of the generator of a tensor's device."""
    return torch.cuda.get_rng_state(near.device) if near.is_cuda else torch.get_rng_state()


@dataclass(frozen=True)
class Held:
    """A buffer that a part changes: as a tensor it could not be an input that is kept for the backward pass."""

    buffer: Tensor


_RUNNING = slice(3, 5)  # mean and variance among the arguments of these norms, then whether they are in training


@functools.cache
def counted_once(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A norm whose running statistics are :class:`Held`; they count a batch once, however often it is computed."""

    def once(*operands: Any, **kwargs: Any) -> Tensor:
        again = getattr(_now, "again", False)
        running = [held.buffer.clone() if again else held.buffer for held in operands[_RUNNING]]
        return norm(*operands[: _RUNNING.start], *running, *operands[_RUNNING.stop :], **kwargs)

    return once


def _first_and_again() -> tuple[Any, Any]:
    return contextlib.nullcontext(), _again()


def _twice_again() -> tuple[Any, Any]:
    return _again(), _again()


@contextlib.contextmanager
def _again() -> Iterator[None]:
    before, _now.again = getattr(_now, "again", False), True
    try:
        yield
    finally:
        _now.again = before


@dataclass(frozen=True)
class _Part:
    """A module of the new program, by the old one's values that it takes and gives."""

    name: str
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


_Item = fx.Node | _Part


def recompute_both(program: fx.GraphModule) -> fx.GraphModule:
    """A training program that computes both of its passes again in the backward pass.

    Args:
        program: (weights…, inputs…) → (outputs, distances), with the segments of its reverse pass marked.

    Raises:
        ArgumentError: the model reads a buffer that it also changes.
    """
    return _Recomputation(program).build()


def run_uncompiled() -> Callable[..., Any]:
    """What calls a program, (program, *operands), and is left alone by torch.compile.

    Made when a program is derived: torch's compiler is not loaded before.
    """
    return torch.compiler.disable(_run)


def _run(program: fx.GraphModule, *operands: Any) -> Any:
    return program(*operands)


class _Recomputation:
    """The new program of an old one.

    Attributes:
        block, group: of a forward value the number of its block, of a block that of its group.
        states: by block, the generator's state before it; of blocks that draw numbers.
        kept: forward values that the new program has at its outermost level.
        modules: of the new program and all of its parts.
    """

    def __init__(self, program: fx.GraphModule) -> None:
        self.program = program
        self._hold_running_statistics()
        self.number = {node: i for i, node in enumerate(program.graph.nodes)}
        forward, self.reverse, self.last = _passes(program.graph)
        self.outside = [node for node in forward if _has_effects(node)]
        again = [node for node in forward if node not in set(self.outside)]
        _check_unchanged(again, self.outside)
        division = divide_forward([node for node in again if not is_light(node)], self.outside)
        self.groups = division.groups
        self.group = {b: g for g, group in enumerate(self.groups) for b in group}
        self.block = {node: b for b, block in enumerate(division.blocks) for node in block}
        for node in again:  # what takes no memory lies with what it was read off
            if found := [self.block[n] for n in node.all_input_nodes if n in self.block]:
                self.block.setdefault(node, max(found))
        for node in reversed(again):  # or with what reads it
            self.block.setdefault(node, min((self.block[n] for n in node.users if n in self.block), default=0))
        self.nodes: list[list[fx.Node]] = [[] for _ in division.blocks]
        for node in again:
            self.nodes[self.block[node]].append(node)
        near = next(n for n in program.graph.nodes if isinstance(n.meta["example"], Tensor))
        self.states = {
            b: program.graph.call_function(rng_state, (near,))
            for b, nodes in enumerate(self.nodes)
            if any(map(is_random, nodes))
        }
        self.kept = {*self.outside, *self.states.values(), *(n for n in again if self._is_kept(n))}
        self.modules = nn.Module()
        for name, module in program.named_children():
            self.modules.add_module(name, module)

    def _hold_running_statistics(self) -> None:
        graph = self.program.graph
        for node in list(graph.nodes):
            norm = node.target in COUNTING or node.target is synchronised_batch_norm
            if norm and segment(node) is None and all(node.args[_RUNNING]) and node.args[_RUNNING.stop]:
                for i in range(_RUNNING.start, _RUNNING.stop):
                    with graph.inserting_before(node):
                        held = graph.call_function(Held, (node.args[i],))
                    held.meta["example"] = None
                    node.update_arg(i, held)
                node.target = counted_once(node.target)

    def build(self) -> fx.GraphModule:
        items: list[_Item] = []
        waiting = list(self.outside)
        for group in self.groups:
            last = max(self.number[n] for b in group for n in self.nodes[b] if not is_light(n))
            while waiting and self.number[waiting[0]] < last:
                items.append(waiting.pop(0))
            items += self._forward_group(group)
        items += [*waiting, *self._reverse_groups(), *self.last]
        graph, values = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.program.graph.find_nodes(op="placeholder"):
            values[node] = graph.node_copy(node)
        self._fill(graph, values, items)
        (output,) = self.program.graph.find_nodes(op="output")
        graph.output(fx.map_arg(output.args[0], values.__getitem__))
        return fx.GraphModule(self.modules, graph, class_name="Palindrome")

    def _is_kept(self, node: fx.Node) -> bool:
        """Whether others than its own group, in the reverse pass those for which it takes no memory, read a value."""
        group = self.group[self.block[node]]
        return any(
            self.group[self.block[user]] != group if user in self.block else user not in self.reverse or is_light(node)
            for user in node.users
        )

    def _forward_group(self, group: range) -> list[_Item]:
        parts: list[_Item] = []
        for b in group:
            inside = set(self.nodes[b])
            outputs = [n for n in self.nodes[b] if n in self.kept or not inside.issuperset(n.users)]
            if len(group) == 1:
                outputs = [n for n in outputs if n in self.kept]
            parts += [self.states[b]] if b in self.states else []
            parts.append(self._part(f"forward_{b}", self.nodes[b], outputs, random=b in self.states))
        if len(group) == 1:
            return parts
        given = [n for part in parts for n in (part.outputs if isinstance(part, _Part) else [part])]
        random = any(b in self.states for b in group)
        name = f"forward_{group[0]}_to_{group[-1]}"
        return [self._part(name, parts, [n for n in given if n in self.kept], random=random)]

    def _reverse_groups(self) -> list[_Item]:
        """The reverse pass, group by group, the last one first."""
        in_block: dict[int, list[fx.Node]] = {}
        now = len(self.nodes) - 1
        for node in self.reverse:
            now = min(now, max((self._home(n) for n in self._reads([node])), default=now))
            in_block.setdefault(now, []).append(node)
        items: list[_Item] = []
        for group in reversed(self.groups):
            parts = [self._reverse_block(b, group, in_block[b]) for b in reversed(group) if b in in_block]
            if len(group) == 1 or not parts:
                items += parts
                continue
            inside = {n for part in parts for n in part.outputs}
            body: list[_Item] = [*self._boundaries(group, [n for part in parts for n in part.inputs]), *parts]
            read_later = self._read_outside([n for b in group for n in in_block.get(b, [])])
            name = f"reverse_{group[-1]}_to_{group[0]}"
            items.append(self._part(name, body, [n for n in read_later if n in inside]))
        return items

    def _home(self, node: fx.Node) -> int:
        """The first block that reads a forward value: where a layer's input is compared."""
        return min((self.block[u] for u in node.users if u in self.block and not is_light(u)), default=self.block[node])

    def _reads(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """Forward values of blocks that are not at hand at the outermost level."""
        return [n for node in nodes for n in node.all_input_nodes if n in self.block and n not in self.kept]

    def _read_outside(self, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        own = set(nodes)
        return [n for n in nodes if not own.issuperset(n.users)]

    def _reverse_block(self, b: int, group: range, nodes: list[fx.Node]) -> _Part:
        """The forward values that it reads, computed once more, and the reverse pass of a block."""
        at_cuts = {n for c in group for n in self.nodes[c] if any(self.block.get(u, c) != c for u in n.users)}
        copies = self._copies(self._reads(nodes), self.kept | (at_cuts if len(group) > 1 else set()), f"reverse_{b}")
        return self._part(f"reverse_{b}", [*copies, *nodes], self._read_outside(nodes))

    def _boundaries(self, group: range, needed: Iterable[fx.Node]) -> list[_Item]:
        """What is live at the cuts inside a group, computed once more."""
        wanted = {n for n in needed if n in self.block and n not in self.kept}
        parts: list[_Item] = []
        for b in reversed(range(group[-1] + 1)):
            outputs = [n for n in self.nodes[b] if n in wanted]
            if outputs:
                available = self.kept | {n for n in self.block if self.block[n] < b}
                copies = self._copies(outputs, available, f"boundary_{b}", kept=outputs)
                part = self._part(f"boundary_{b}", copies, outputs)
                wanted.update(n for n in part.inputs if n in self.block and n not in self.kept)
                parts.insert(0, part)
        return parts

    def _copies(
        self, needed: Iterable[fx.Node], available: set[fx.Node], name: str, kept: Sequence[fx.Node] = ()
    ) -> list[_Item]:
        """Forward values computed once more from what is available; those of a block that draws numbers as a part."""
        wanted = set(needed) - (available - set(kept))
        items: list[_Item] = []
        for b in reversed(range(len(self.nodes))):
            outputs = [n for n in self.nodes[b] if n in wanted]
            if not outputs:
                continue
            inside, waiting = set(outputs), list(outputs)
            if b in self.states:  # the numbers are drawn in turn
                waiting += [n for n in self.nodes[b] if is_random(n)]
                inside.update(waiting)
            while waiting:
                for n in waiting.pop().all_input_nodes:
                    if n in self.block and n not in available and n not in inside:
                        if self.block[n] == b:
                            inside.add(n)
                            waiting.append(n)
                        else:
                            wanted.add(n)
            nodes: list[_Item] = [n for n in self.nodes[b] if n in inside]
            if b in self.states:
                body, inputs = self._body(nodes, outputs)
                replay = self._named(f"{name}_replay_{b}", Replayed(body))
                nodes = [_Part(replay, (self.states[b], *inputs), tuple(outputs))]
            items[:0] = nodes
        return items

    def _part(self, name: str, items: Sequence[_Item], outputs: Sequence[fx.Node], *, random: bool = False) -> _Part:
        body, inputs = self._body(items, outputs)
        again = not name.startswith("forward")
        return _Part(self._named(name, Recomputed(body, random, again)), inputs, tuple(outputs))

    def _named(self, name: str, module: nn.Module) -> str:
        self.modules.add_module(name, module)
        return name

    def _body(self, items: Sequence[_Item], outputs: Sequence[fx.Node]) -> tuple[fx.GraphModule, tuple[fx.Node, ...]]:
        """A program of its own, and what it reads."""
        given: set[fx.Node] = set()
        inputs: dict[fx.Node, None] = {}
        for item in items:
            reads = item.inputs if isinstance(item, _Part) else item.all_input_nodes
            inputs.update(dict.fromkeys(n for n in reads if n not in given))
            given.update(item.outputs if isinstance(item, _Part) else [item])
        graph = fx.Graph()
        values = {node: graph.placeholder(node.name) for node in inputs}
        self._fill(graph, values, items)
        graph.output(tuple(values[n] for n in outputs))
        return fx.GraphModule(self.modules, graph, class_name="Part"), tuple(inputs)

    def _fill(self, graph: fx.Graph, values: dict[fx.Node, fx.Node], items: Sequence[_Item]) -> None:
        """Append operations and calls of parts; ``values`` grows."""
        for item in items:
            if isinstance(item, _Part):
                call = graph.call_module(item.name, tuple(values[n] for n in item.inputs))
                for i, node in enumerate(item.outputs):
                    values[node] = graph.call_function(operator.getitem, (call, i))
                continue
            copy = values[item] = graph.node_copy(item, values.__getitem__)
            copy.meta = {}


def _passes(graph: fx.Graph) -> tuple[list[fx.Node], list[fx.Node], list[fx.Node]]:
    """Operations of the forward pass, of the reverse pass, and those of what is made of their results."""
    forward: list[fx.Node] = []
    reverse: list[fx.Node] = []
    last: list[fx.Node] = []
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if segment(node) is not None:
            reverse.append(node)
        elif not after.isdisjoint(node.all_input_nodes):
            last.append(node)
        else:
            rows = "example" not in node.meta  # of a forward value, with fraction=
            (reverse if rows else forward).append(node)
            continue
        after.add(node)
    return forward, reverse, last


def _has_effects(node: fx.Node) -> bool:
    target = node.target
    return (
        node.op == "call_module"
        or target is Held
        or (isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable)
    )


def _check_unchanged(again: Sequence[fx.Node], outside: Sequence[fx.Node]) -> None:
    """What is computed again must read the same values as before."""
    changed = {base for node in outside if (base := changed_memory(node)) is not None}
    for node in again:
        if isinstance(node.meta["example"], Tensor | list | tuple) and node.target is not size_of:
            for read in changed.intersection(node.all_input_nodes):
                raise ArgumentError(
                    f'checkpoint="both" computes the forward pass twice, but {where(node)} reads {read.name!r}, which '
                    "the model changes in place: use checkpoint=True"
                )
