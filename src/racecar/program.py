"""A palindrome bound to a model: derived for its present configuration, run with the weights it has at every call."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.errors import ArgumentError
from racecar.forward.export import at_least_two, export_forward
from racecar.forward.graph import Shapes
from racecar.options import Options
from racecar.passes.fraction import reverse_on_fraction
from racecar.passes.segments import Draw, Subset, divide
from racecar.passes.sync_batch_norm import as_plain_norms, synchronise
from racecar.reverse.palindrome import Palindrome, build


class Program:
    """A palindrome bound to the names of the weights it reads from the model at every call."""

    def __init__(
        self,
        palindrome: Palindrome,
        subset: Subset | None,
        weights: list[str],
        constants: list[Tensor],
        specs: Any,
        shapes: Shapes,
        leaves: list[Any],
    ) -> None:
        self.palindrome, self.subset, self.constants, self.shapes = palindrome, subset, constants, shapes
        self.fixed, self.derived = _fixed(leaves), _sizes(leaves)
        self.seen = {self.derived}
        self.names = weights
        self.owners = [name.rpartition(".")[::2] for name in weights]
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
        other.seen = set(self.seen)
        return other

    def nest(self, outputs: Sequence[Any]) -> Any:
        """The flat outputs in the model's own structure."""
        return outputs[0] if self.single else pytree.tree_unflatten(outputs, self.out_spec)

    @classmethod
    def derive(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        *,
        training: bool,
        sizes_vary: bool,
    ) -> Program:
        """Export, mirror, synchronise and vary; ``sizes_vary``: see :mod:`racecar.forward.export`."""
        _check_whole(model)
        leaves, in_spec = pytree.tree_flatten((args, dict(kwargs)))
        for enough in (at_least_two(leaves), leaves):
            call = pytree.tree_unflatten(enough, in_spec)
            with as_plain_norms(model):
                forward = export_forward(model, *call, training=training, sizes_vary=sizes_vary)
            if enough is not leaves and not all(forward.shapes.batch_varies(enough)):
                continue  # what holds for this size alone must be derived for the given one, not for one doubled
            palindrome = build(forward, model, enough, options)
            if palindrome.sized != "batch":
                break
        if enough is not leaves:
            steps = tuple(replace(s, shape=_halved(s.shape), flops=s.flops // 2) for s in palindrome.steps)
            palindrome = replace(palindrome, steps=steps)
        for program in (palindrome.forward, palindrome.training, palindrome.pairs):
            synchronise(program, model)
        palindrome, subset = _varied(palindrome, options)
        for program in (palindrome.forward, palindrome.training, palindrome.pairs):
            for node in program.graph.nodes:  # fake and symbolic tensors keep the tracer alive and cannot be copied
                example = pytree.tree_map_only(Tensor, _only_shape, node.meta.get("example"))
                node.meta = {"example": example}
        specs = in_spec, forward.out_spec
        return cls(palindrome, subset, forward.weights, forward.constants, specs, forward.shapes, leaves)

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the model's Python code would do with these inputs what it did with the example."""
        leaves = self._inputs(args, kwargs)
        if self.fixed != _fixed(leaves):
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

    def weights(self, model: nn.Module, decoder: nn.Module | None) -> list[Tensor]:
        """What the program reads, as it is now: the model's parameters and buffers, then a decoder's."""
        found = [getattr(model.get_submodule(path), name) for path, name in self.owners]
        if decoder is not None:
            found += [getattr(decoder.get_submodule(path), name) for path, name in self.decoder_owners]
        for (path, _), weight in zip([*self.owners, *self.decoder_owners], found, strict=False):
            _check_gathered(path, weight)
        return found

    def train(
        self,
        model: nn.Module,
        decoder: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        draw: Draw | None = None,
    ) -> tuple[Any, Tensor]:
        """(The model's output, the distances [n]); with a draw, only those of the layers that were drawn count."""
        running = () if draw is None else (draw.segments,)
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # if it fails inside the model's own no_grad
            outputs, distances = self.palindrome.training(
                *self.weights(model, decoder), *self.constants, *self._inputs(args, kwargs), *running
            )
        return self.nest(outputs), distances

    def pairs(
        self, model: nn.Module, decoder: nn.Module | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The n pairs (L_m, L'_m); buffers stay as they are."""
        weights = [w if isinstance(w, nn.Parameter) else w.clone() for w in self.weights(model, decoder)]
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return self.palindrome.pairs(*weights, *self.constants, *self._inputs(args, kwargs))


def _fixed(leaves: Sequence[Any]) -> list[Any]:
    """What the graph holds as constants: dtypes, and inputs that are no tensors (numbers and flags)."""
    return [leaf.dtype if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]


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


class Configuration:
    """What the exported graph depends on and a user may change between two calls."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = self._modules(model)
        # Dropout.p, BatchNorm.momentum, … and parameters that are not there, such as a bias.
        self.settings = [
            (m, name, value)
            for m in model.modules()
            if type(m).__module__.startswith("torch.nn.")
            for name, value in [*m.__dict__.items(), *m._parameters.items()]
            if name[0] != "_" and name != "training" and isinstance(value, float | int | str | tuple | None)
        ]

    @staticmethod
    def _modules(model: nn.Module) -> Any:
        return tuple((m, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()), next(
            ((p.device, p.dtype) for p in model.parameters()), None
        )

    def holds(self, model: nn.Module) -> bool:
        """Whether the model is still as it was."""
        return self.modules == self._modules(model) and all(
            (now := getattr(m, name, _MISSING)) is value or now == value for m, name, value in self.settings
        )


_MISSING = object()


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
    training, needs = divide(palindrome.training, recomputed=options.checkpoint)
    subset = None if options.subset is None else Subset(options.subset, palindrome.segment_of, needs)
    return replace(palindrome, training=training), subset


_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"}


def _check_whole(model: nn.Module) -> None:
    """The program reads weights and calls no module: what happens when one is called would not happen."""
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            where = f"module {name!r} of the model" if name else "the model"
            raise ArgumentError(
                f"{where} is a {kind.__name__}, which the palindrome would pass by: gradients would not be shared "
                "among processes. Wrap the other way round: "
                "torch.nn.parallel.DistributedDataParallel(racecar.Racecar(model, ...))"
            )
        for weight in module._parameters.values():
            _check_gathered(name, weight)


def _check_gathered(path: str, weight: Tensor | None) -> None:
    # A DTensor, asked without an import of torch.distributed.tensor.
    if type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "device_mesh"):
        where = f"module {path!r}" if path else "the model"
        raise ArgumentError(
            f"the weights of {where} are sharded among processes, but the reverse pass needs them whole, together "
            "with all others. Make the Racecar first and shard it at its root alone: "
            "rr = racecar.Racecar(model, ...); fully_shard(rr). For rr.reconstruct: "
            "torch.distributed.fsdp.register_fsdp_forward_method(rr, 'reconstruct')"
        )
