"""A palindrome bound to a model: derived for its present configuration, run with the weights it has at every call."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.collection import collection_paused
from racecar.errors import ArgumentError, ExportError
from racecar.forward.beside.checkpoints import checkpoints_inlined
from racecar.forward.beside.numbers import as_tensors, numbers_in
from racecar.forward.beside.readable import check_readable
from racecar.forward.beside.rehearsal import Rehearsal, rehearse, run
from racecar.forward.beside.values import first_missing
from racecar.forward.export import as_configured, at_least_two, check_devices, export_forward, without_hooks
from racecar.forward.graph import ForwardGraph
from racecar.forward.hooks import hooked_modules
from racecar.options import Options
from racecar.passes.both import recompute_both, run_uncompiled
from racecar.passes.fraction import reverse_on_fraction
from racecar.passes.gathered import gather_where_read
from racecar.passes.segments import Draw, Subset, divide
from racecar.passes.sync_batch_norm import as_plain_norms, synchronise
from racecar.proof import compare
from racecar.reverse.palindrome import Palindrome, build
from racecar.sharded import Precision, check_sharded, check_uncompiled, is_sharded, run_gathered

if TYPE_CHECKING:
    from racecar.module import Racecar


class Program:
    """A palindrome bound to the names of the weights it reads from the model at every call."""

    def __init__(
        self,
        palindrome: Palindrome,
        subset: Subset | None,
        forward: ForwardGraph,
        specs: Any,
        leaves: list[Any],
        source: ForwardGraph | None = None,
    ) -> None:
        self.source = source if palindrome.sized is not None else None  # to be mirrored for other sizes
        self.again = palindrome.again if self.source is not None else None
        palindrome = replace(palindrome, again=None)
        self.palindrome, self.subset, self.shapes, self.carried = palindrome, subset, forward.shapes, forward.carried
        self.constants, self.names = forward.constants, forward.weights
        self.proved = True  # or derived while weights had no values
        self.uncompiled: Callable[..., Any] | None = None  # what calls its programs, if torch.compile must not
        self.checked: tuple[tuple[int, ...], dict[int, Precision]] | None = None  # which sharded weights, and how
        self.gathered: dict[tuple[str, frozenset[int]], nn.Module] = {}  # programs for weights that are sharded
        self.numbers = forward.numbers
        self.fixed, self.derived = _fixed(leaves, self.numbers), _sizes(leaves)
        self.seen = {self.derived}
        self.owners = [name.rpartition(".")[::2] for name in self.names]
        self.decoder_owners = [name.rpartition(".")[::2] for name in palindrome.decoder]
        self.in_spec, self.out_spec = specs
        # The usual cases, some tensors in and one out, are spared the pytree.
        self.single = self.out_spec.is_leaf()
        plain = self.in_spec == pytree.tree_structure(((0,) * self.in_spec.num_leaves, {}))
        self.plain = self.in_spec.num_leaves if plain else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        other = memo[id(self)] = copy.copy(self)  # tree specs cannot be copied without a warning
        other.palindrome = copy.deepcopy(self.palindrome, memo)
        other.constants = copy.deepcopy(self.constants, memo)
        other.seen, other.gathered, other.checked = set(self.seen), {}, None
        other.source = other.again = None  # they keep the tracer alive, which cannot be copied
        return other

    def nest(self, outputs: Sequence[Any]) -> Any:
        """The flat outputs in the model's own structure, without what the model keeps on itself."""
        return outputs[0] if self.single else pytree.tree_unflatten(outputs[: self.out_spec.num_leaves], self.out_spec)

    @classmethod
    @collection_paused()
    def derive(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        *,
        training: bool,
        sizes_vary: bool,
        exported: ForwardGraph | None = None,
    ) -> Program:
        """Export, mirror, synchronise and vary.

        Args:
            model, args, kwargs: the call.
            options: of the Racecar.
            training: the model's mode.
            sizes_vary: see :mod:`racecar.forward.export`.
            exported: a forward graph that holds for these sizes too: it is mirrored for them.
        """
        check_readable(model)
        hooked_modules(model)  # refuses those that no graph can run
        leaves, in_spec = pytree.tree_flatten((args, dict(kwargs)))
        check_devices(model, args, dict(kwargs))
        missing = first_missing(model)
        doubled = at_least_two(leaves)
        real: Rehearsal | None = None
        for enough in [doubled, leaves] if doubled is not leaves and exported is None else [leaves]:
            call = pytree.tree_unflatten(enough, in_spec)
            if exported is not None:
                forward = exported
            else:
                with as_plain_norms(model):
                    if options.verify and missing is None:
                        with as_configured(model, training), without_hooks(model), checkpoints_inlined():
                            real = rehearse(model, *call)
                    forward = _exported(model, enough, in_spec, training, sizes_vary, real)
            source = forward
            forward = forward.copied()
            if enough is not leaves and not all(forward.shapes.batch_varies(enough)):
                continue  # what holds for this size alone must be derived for the given one, not for one doubled
            palindrome = build(forward, model, as_tensors(enough, forward.numbers), options)
            if palindrome.sized != "batch":
                break
        if enough is not leaves:
            steps = tuple(replace(s, shape=_halved(s.shape), flops=s.flops // 2) for s in palindrome.steps)
            palindrome = replace(palindrome, steps=steps)
        if real is not None:
            with as_plain_norms(model), as_configured(model, training), without_hooks(model), checkpoints_inlined():
                _prove(model, call, forward, palindrome, enough, real)
        for program in (palindrome.forward, palindrome.training, palindrome.pairs):
            synchronise(program, model)
        palindrome, subset = _varied(palindrome, options)
        for program in (palindrome.forward, palindrome.training, palindrome.pairs):
            for node in program.graph.nodes:  # fake and symbolic tensors keep the tracer alive and cannot be copied
                example = pytree.tree_map_only(Tensor, _only_shape, node.meta.get("example"))
                node.meta = {"example": example}
        specs = in_spec, forward.out_spec
        derived = cls(palindrome, subset, forward, specs, leaves, source if sizes_vary else None)
        derived.proved = missing is None or not options.verify
        if options.checkpoint == "both":
            derived.uncompiled = run_uncompiled()
        return derived

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the model's Python code would do with these inputs what it did with the example."""
        leaves = self._inputs(args, kwargs)
        if self.fixed != _fixed(leaves, self.numbers):
            return False
        if self.palindrome.sized is not None:  # a mask of what is known fits these sizes alone
            firsts = [self.palindrome.sized == "shape" and varies for varies in self.shapes.batch_varies(leaves)]
            shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
            derived = [size for size in self.derived if size]
            return len(shapes) == len(derived) and all(
                s[first:] == d[first:] for first, s, d in zip(firsts, shapes, derived, strict=True)
            )
        if (sizes := _sizes(leaves)) not in self.seen and self.shapes.allow(leaves):
            self.seen.add(sizes)
        return sizes in self.seen

    def holds_in_other_sizes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether only the masks of what is known keep it from these inputs, so that :attr:`source` serves."""
        leaves = self._enough(self._inputs(args, kwargs))
        single = any(leaf.shape[0] == 1 for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim)
        same = self.fixed == _fixed(leaves, self.numbers)
        return self.source is not None and same and not single and self.shapes.allow(leaves)

    def _enough(self, leaves: list[Any]) -> list[Any]:
        """Inputs of a batch that may stand for any, where no mask hangs on it."""
        return leaves if self.palindrome.sized == "batch" else at_least_two(leaves)

    def resized(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program | None:
        """The same with the masks for these inputs, for which it holds in other sizes; None if masks will not do."""
        leaves = self._inputs(args, kwargs)
        sizes = self.shapes.sizes(self._enough(leaves))
        masks = None if self.again is None or sizes is None else self.again.masks(sizes)
        if masks is None:
            return None
        other = copy.copy(self)
        other.constants = [*self.constants]
        for position, mask in masks.items():
            other.constants[position] = mask.to(self.constants[position].device)
        other.derived = _sizes(leaves)
        other.seen = {other.derived}
        return other

    def fits_but_for_the_batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether these inputs have the example's sizes but for the first ones."""
        sizes = _sizes(self._inputs(args, kwargs))
        return [s[1:] for s in sizes] == [d[1:] for d in self.derived]

    def _inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        if self.plain == len(args) and not kwargs and all(isinstance(a, Tensor) for a in args):
            return list(args)
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        if spec != self.in_spec:
            raise ArgumentError(
                f"called with {_described(spec)}, but example_inputs had {_described(self.in_spec)}: call with the "
                "same arguments, nested in the same way"
            )
        return leaves

    def _operands(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        leaves = self._inputs(args, kwargs)
        return as_tensors(leaves, self.numbers) if self.numbers else leaves

    def weights(self, rr: Racecar) -> list[Tensor]:
        """What the program reads, as it is now: the model's parameters and buffers, then a decoder's."""
        found = [getattr(rr.model.get_submodule(path), name) for path, name in self.owners]
        if rr.decoder is not None:
            found += [getattr(rr.decoder.get_submodule(path), name) for path, name in self.decoder_owners]
        return found

    def train(
        self, rr: Racecar, args: tuple[Any, ...], kwargs: Mapping[str, Any], draw: Draw | None = None
    ) -> tuple[Any, Tensor]:
        """(The model's output, the distances [n]); with a draw, only those of the layers that were drawn count."""
        running = () if draw is None else (draw.segments,)
        operands = (*self.constants, *self._operands(args, kwargs), *running)
        outputs, distances = self._run("training", rr, self.weights(rr), operands)
        if self.carried:
            self.carried.set(rr.model, outputs[self.out_spec.num_leaves :])
        return self.nest(outputs), distances

    def pairs(self, rr: Racecar, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The n pairs (L_m, L'_m); buffers stay as they are."""
        weights = [w if isinstance(w, nn.Parameter) else w.clone() for w in self.weights(rr)]
        return self._run("pairs", rr, weights, (*self.constants, *self._operands(args, kwargs)))

    def _run(
        self, which: Literal["training", "pairs"], rr: Racecar, weights: list[Tensor], operands: Sequence[Any]
    ) -> Any:
        """One of the palindrome's programs; with sharded weights the one that gathers them where they are read."""
        program = getattr(self.palindrome, which)
        sharded = frozenset(i for i, w in enumerate(weights) if is_sharded(w))
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # if it fails inside the model's own no_grad
            if self.uncompiled is not None and not sharded:
                return self.uncompiled(program, *weights, *operands)
            if not sharded:
                return program(*weights, *operands)
            check_uncompiled()
            if (which, sharded) not in self.gathered:
                self.gathered[which, sharded] = gather_where_read(program, {i: i for i in sharded})
            now = tuple(map(id, weights))
            if self.checked is None or self.checked[0] != now:
                self.checked = now, check_sharded(rr, weights)
            return run_gathered(self.gathered[which, sharded], self.checked[1], weights, operands)


def _exported(
    model: nn.Module, leaves: list[Any], spec: Any, training: bool, sizes_vary: bool, real: Rehearsal | None
) -> ForwardGraph:
    """The forward graph, with numbers as its inputs where the forward does not need the numbers themselves."""

    def export(numbers: frozenset[int]) -> ForwardGraph:
        args, kwargs = pytree.tree_unflatten(as_tensors(leaves, numbers), spec)
        return export_forward(
            model, args, kwargs, training=training, sizes_vary=sizes_vary, rehearsal=real, numbers=numbers
        )

    if numbers := numbers_in(leaves):
        with contextlib.suppress(ExportError):
            return export(numbers)
    return export(frozenset())


def _prove(
    model: nn.Module, call: Any, forward: ForwardGraph, palindrome: Palindrome, leaves: Sequence[Any], real: Rehearsal
) -> None:
    """Run the forward program as the model was run, and compare; see :mod:`racecar.proof`."""
    args, kwargs = call

    def program() -> Any:
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        tensors = dict(named)
        weights = [tensors[name] for name in (*forward.weights, *palindrome.decoder)]
        outputs, _ = palindrome.forward(*weights, *forward.constants, *as_tensors(leaves, forward.numbers))
        return outputs[: forward.out_spec.num_leaves]

    calls = lambda: pytree.tree_leaves(model(*args, **kwargs)), program
    compare(model, real, run(model, program), calls)


def _fixed(leaves: Sequence[Any], numbers: Set[int]) -> list[Any]:
    """What the graph holds as constants: dtypes, and inputs that are no tensors (flags, words, some numbers)."""
    return [
        leaf.dtype if isinstance(leaf, Tensor) else float if i in numbers and type(leaf) is float else (leaf,)
        for i, leaf in enumerate(leaves)
    ]


def _sizes(leaves: Sequence[Any]) -> tuple[torch.Size, ...]:
    return tuple(leaf.shape for leaf in leaves if isinstance(leaf, Tensor))


def _only_shape(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] // 2, *shape[1:]) if shape else shape


def _described(spec: pytree.TreeSpec) -> str:
    """The arguments of a call in words."""
    args, kwargs = spec.children()
    words = [f"{args.num_children} positional argument{'s' * (args.num_children != 1)}"]
    if kwargs.num_children:
        words.append(f"keywords {', '.join(map(repr, kwargs.context))}")
    if spec.num_leaves != args.num_children + kwargs.num_children:
        words.append(f"{spec.num_leaves} values inside")
    return ", ".join(words)


def _varied(palindrome: Palindrome, options: Options) -> tuple[Palindrome, Subset | None]:
    """The palindrome with the training program that the cheaper variants ask for."""
    if options.fraction != 1:
        if palindrome.sized == "batch":
            raise ArgumentError("fraction: what is known differs between the samples of a batch: leave it out")
        reverse_on_fraction(palindrome.training, options.fraction, options.reduction)
    count = len(palindrome.layers)
    if options.subset is not None and options.subset > count:
        raise ArgumentError(f"subset={options.subset}, but only {count} layers are compared")
    if not options.checkpoint and options.subset is None:
        return palindrome, None
    if options.checkpoint == "both":
        return replace(palindrome, training=recompute_both(palindrome.training)), None
    training, needs = divide(palindrome.training, recomputed=bool(options.checkpoint))
    subset = None if options.subset is None else Subset(options.subset, palindrome.segment_of, needs)
    return replace(palindrome, training=training), subset
