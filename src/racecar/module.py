"""``Racecar``: the one line a user adds. Wraps a model, keeps its palindrome up to date, returns output and penalty."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.errors import ArgumentError, NonFiniteError
from racecar.explain import Explanation
from racecar.forward import Shapes, at_least_two, export_forward
from racecar.fraction import share
from racecar.loss import Reduction
from racecar.palindrome import Palindrome, build
from racecar.segments import Subset, divide
from racecar.selection import InputRange, Layers, NormStatistics, Options
from racecar.synchronised import as_plain_norms, synchronise
from racecar.turns import cycle

Weight = float | Sequence[float] | Tensor


class Racecar(nn.Module):
    """Racecar training for any model (Eq. 1): ``output, penalty = rr(x)``.

    In training mode a call runs the model's forward pass, the mirrored pass that reuses all its weights backwards,
    and Σ_m λ_m ½‖L_m − L'_m‖², as one program. In evaluation mode a call is a call of the untouched model and
    returns just its output. The model's parameters, buffers and ``state_dict`` stay its own.

    Args:
        model: any module that ``torch.export`` can trace; it is neither copied nor changed.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments, on the model's device. Only
            shapes and dtypes matter; other batch sizes can follow.
        layers: which inputs L_m are compared. None: those of all convolutions if there are any, else of all linear
            layers. An integer s (RR^s): the first s of these. ``"conv"``, ``"all"``, or names: of layers, of modules
            (all layers inside), ``"fc#2"`` for the second use of a module.
        start: the module at whose output I_r the reverse pass begins. None: the last mirrored layer's output after
            its norm, activation and residual add.
        weight: λ, or one λ_m per compared layer from the network's input on. Contained in ``penalty``.
        reduction: ``"mean"`` per element, or ``"sum"`` over batch and units: the paper's, which its λ need.
        input_range: how the regenerated input I' is mapped to the range of I: None (as it is: right for inputs
            normalised around zero), ``"paper"`` (the first layer's activation, after a parameter-free batch norm in
            nets with batch norm) or a function.
        norm_statistics: batch norm in the reverse pass uses the ``"separate"`` statistics of its own batch, or
            ``"shared"``: it updates the forward running statistics as well, as the authors' code does.
        decoder: None: the reverse pass reuses the model's weights, which is racecar training. A module with the same
            parameters, e.g. ``copy.deepcopy(model)``: it uses that one's instead, an untied decoder of the same
            shape, the control that tells what sharing weights does. Its parameters are those of ``rr.decoder``:
            optimise ``rr.parameters()``.
        every: k: the reverse pass runs in the first of every k training calls, its penalty weighted by k, so that the
            mean penalty is unchanged and its cost a k-th. The other calls are calls of the plain model, and their
            penalty is zero; see :attr:`calls` for what counts. They leave a ``decoder`` without gradients:
            DistributedDataParallel then needs ``find_unused_parameters=True``.
        fraction: the reverse pass sees so large a share of the batch, its first samples (batches are shuffled in
            training); between 0 and 1. The forward pass sees all.
        layerwise: each L'_m is found from the forward value after its layer instead of from the chain's estimate of
            it: no chain in which errors grow, however deep the network; the penalty is another one.
        subset: k: of the compared layers k are drawn at every call, weighted by n/k. With ``layerwise`` the others are
            left out; in a chain only those after the deepest one that is drawn. The draw is a function of the
            attribute ``draws``, a count to save and to set where training goes on.
        checkpoint: the reverse pass keeps the estimates L'_m alone and is computed again, layer by layer, for the
            backward pass: less memory, a third more arithmetic.

    Raises:
        ArgumentError: an argument does not fit the model; ExportError, IrreversibleError, RuleError: the palindrome
            cannot be derived. The model is left as it was.

    Example:
        >>> import torch, racecar
        >>> model = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.Tanh(), torch.nn.Linear(10, 2))
        >>> rr = racecar.Racecar(model, torch.randn(8, 12), weight=0.1)
        >>> output, penalty = rr(torch.randn(32, 12))
        >>> loss = torch.nn.functional.cross_entropy(output, torch.zeros(32, dtype=torch.long)) + penalty
        >>> loss.backward()
    """

    lambdas: Tensor

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
        *,
        layers: Layers = None,
        start: str | None = None,
        weight: Weight = 1.0,
        reduction: Reduction = "mean",
        input_range: InputRange = None,
        norm_statistics: NormStatistics = "separate",
        decoder: nn.Module | None = None,
        every: int = 1,
        fraction: float = 1.0,
        layerwise: bool = False,
        subset: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(model, reduction, input_range, norm_statistics)
        self._every, self._turn = every, cycle(every)
        if decoder is not None:
            _check_decoder(decoder, model)
        self.model, self.decoder = model, decoder
        args, kwargs = _as_call(example_inputs)
        self._order = _parameter_names(model, args, kwargs)
        args, kwargs = self._positional(args, kwargs)
        self._options = Options(
            layers,
            start,
            reduction,
            input_range,
            norm_statistics,
            decoder is not None,
            layerwise,
            fraction,
            subset,
            checkpoint,
        )
        _check_variant(self._options)
        self._palindromes: dict[bool, tuple[_Configuration, list[_Program]]] = {}
        self._pending: Tensor | None = None
        self.check_finite = True
        self.draws = 0
        palindrome = self._program(args, kwargs, training=True).palindrome
        self.register_buffer("lambdas", _check_weight(weight, len(palindrome.layers), model), persistent=False)
        self.training = model.training  # train() would change the modes of submodules that the user has set

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the compared layers, from the network's input on: one λ_m each."""
        return self.program.palindrome.layers

    @property
    def every(self) -> int:
        """k: the reverse pass runs in one of so many training calls."""
        return self._every

    @property
    def calls(self) -> int:
        """Training calls so far, modulo ``every``: 0 where the next one runs the reverse pass.

        Every call in training mode counts, of each batch that gradients are accumulated over as well, and with
        ``no_grad`` too; ``reconstruct`` does not. Processes that train together call alike and so agree. It is no part
        of any ``state_dict``: save it with a checkpoint and set it when training goes on. Any count may be set:
        ``rr.calls = step`` before each call gives all batches of one optimiser step the same turn.

        Raises:
            ArgumentError: set to something else than a whole number from 0 on.
        """
        return self._turn.position

    @calls.setter
    def calls(self, calls: int) -> None:
        self._turn = self._turn.at(calls)

    @property
    def options(self) -> Options:
        """What the constructor was asked for: layers, start, reduction, input range, statistics, decoder or not."""
        return self._options

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Training: (the model's output, the penalty, a scalar). Evaluation: the model's output.

        Raises:
            NonFiniteError: the penalty of a layer is infinite or NaN. On an accelerator this is reported at the next
                call with a reverse pass, so that it need not be waited for; under ``torch.compile`` it is not checked,
                and neither is whether the model's modes, hooks or sizes ask for another palindrome than at the last
                uncompiled call. Set ``check_finite`` to False where one of several processes must not stop alone.
        """
        if not self.training:
            return self.model(*args, **kwargs)
        turn = self._turn
        self._turn = turn.following
        if not turn.due:  # the model itself, not its exported forward pass: what is no racecar training stays as it is
            return self.model(*args, **kwargs), self.lambdas.new_zeros(())
        args, kwargs = self._positional(args, kwargs)
        program = self._program(args, kwargs, training=self.model.training)
        drawn = self._draw(program.subset)
        output, distances = program.train(self.model, self.decoder, args, kwargs)
        terms = self.lambdas * distances if drawn is None else self.lambdas * distances * drawn
        if self.check_finite and not torch.compiler.is_compiling():
            self._check_finite(terms.detach())
        penalty = terms.sum()
        return output, penalty if self._every == 1 else self._every * penalty

    def distances(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """The penalty's parts: (the model's output, ½‖L_m − L'_m‖² of every compared layer, [n], without λ).

        Forward and reverse pass in the model's current mode, with all that a call does to running statistics and
        random state; it is no training call that ``calls`` counts.
        """
        args, kwargs = self._positional(args, kwargs)
        program = self._program(args, kwargs, training=self.model.training)
        if program.subset is not None:
            program.subset.running = None
        return program.train(self.model, self.decoder, args, kwargs)

    def reconstruct(self, *args: Any, **kwargs: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Regenerate: layer name → (L_m, L'_m), the layer's input in the forward pass and in the reverse pass.

        Runs in the model's current mode and changes nothing, running statistics and random state included. The first
        entry holds the input I and the regenerated input I' of Figures 5 and 8.
        """
        args, kwargs = self._positional(args, kwargs)
        program = self._program(args, kwargs, training=self.model.training)
        device = self.lambdas.device
        accelerated = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(accelerated, device_type=device.type if accelerated else "cuda"):
            pairs = program.pairs(self.model, self.decoder, args, kwargs)
        return dict(zip(program.palindrome.layers, pairs, strict=True))

    def explain(self) -> Explanation:
        """The table of the palindrome: layer, forward, reverse, compared or not, FLOPs, λ. ``print`` it."""
        palindrome = self.program.palindrome
        return Explanation(palindrome.steps, palindrome.start, tuple(self.lambdas.tolist()), self._every)

    @property
    def program(self) -> _Program:
        """The training program and the names of the weights it reads (for :mod:`racecar.ensemble`)."""
        return self._palindromes[True][1][0]

    def reweighted(self, weight: Weight) -> Racecar:
        """The same palindrome of the same model with other λ, without deriving it again."""
        other = copy.copy(self)
        other._buffers = {"lambdas": _check_weight(weight, len(self.layers), self.model)}
        return other

    def _draw(self, subset: Subset | None) -> Tensor | None:
        """Choose the layers that the next call looks at: a weight for each, [n], or None for all."""
        if subset is None:
            return None
        if torch.compiler.is_compiling():
            raise ArgumentError(
                "subset draws layers in Python at every call, which torch.compile would do once for all: leave one out"
            )
        self.draws += 1
        return self.lambdas.new_tensor(subset.draw(self.draws - 1))

    def _program(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> _Program:
        """The program for the model's present configuration and these inputs; derived when there is none yet."""
        known = self._palindromes.get(training)
        if known is not None and torch.compiler.is_compiling():
            return known[1][0]
        programs = known[1] if known is not None and known[0].holds(self.model) else []
        for program in programs:
            if program.fits(args, kwargs):
                return program
        # Most models see one size: it is only when another comes that the graph must hold for any.
        program = _Program.derive(self.model, args, kwargs, self._options, training=training, sizes_vary=bool(programs))
        layers, lambdas = program.palindrome.layers, self._buffers.get("lambdas")
        if lambdas is not None and len(layers) != len(lambdas):
            raise ArgumentError(
                f"the model has changed: it now has {len(layers)} compared layers ({', '.join(map(repr, layers))}) for "
                f"{len(lambdas)} λ: make a new Racecar"
            )
        self._palindromes[training] = (_Configuration(self.model), [*programs, program])
        return program

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call in one spelling: as many positional arguments as possible, the rest sorted."""
        if not kwargs:
            return args, kwargs
        placed, rest = list(args), dict(kwargs)
        for name in self._order[len(args) :]:
            if name not in rest:
                break
            placed.append(rest.pop(name))
        return tuple(placed), {name: rest[name] for name in sorted(rest)}

    def _apply(self, fn: Any, recurse: bool = True) -> Racecar:
        lambdas = self.lambdas
        super()._apply(fn, recurse)
        if self.lambdas.dtype in (torch.float16, torch.bfloat16):  # λ may be as small as 1e-9
            self.lambdas = lambdas.to(self.lambdas.device)
        return self

    def _replicate_for_data_parallel(self) -> Racecar:
        raise ArgumentError(
            "torch.nn.DataParallel cannot run a Racecar, as its copies of the model have no palindrome: start a "
            "process per GPU and use torch.nn.parallel.DistributedDataParallel(rr)"
        )

    def _check_finite(self, terms: Tensor) -> None:
        previous, self._pending = (terms, None) if terms.device.type == "cpu" else (self._pending, terms)
        if previous is None or math.isfinite(previous.sum()):
            return
        bad = [name for name, value in zip(self.layers, previous.tolist(), strict=True) if not math.isfinite(value)]
        raise NonFiniteError(
            f"the racecar penalty is not finite at layer {', '.join(map(repr, bad)) or '(their sum)'}: the reverse "
            "pass grew without bound, unless the input or the weights were not finite before. Lower weight= or the "
            "learning rate, or compare fewer layers."
        )

    def extra_repr(self) -> str:
        """The options in the constructor's words."""
        shown = [f"layers={list(self.layers)}", f"reduction={self._options.reduction!r}"]
        if self._every != 1:
            shown.append(f"every={self._every}")
        usual = Options()
        for name in ("fraction", "layerwise", "subset", "checkpoint"):
            if (value := getattr(self._options, name)) != getattr(usual, name):
                shown.append(f"{name}={value}")
        return ", ".join(shown)


class _Program:
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
        self.twins = [name.rpartition(".")[::2] for name in palindrome.decoder]
        self.in_spec, self.out_spec = specs
        # The usual cases, some tensors in and one out, are spared the pytree.
        self.single = self.out_spec.is_leaf()
        plain = self.in_spec == pytree.tree_structure(((0,) * self.in_spec.num_leaves, {}))
        self.plain = self.in_spec.num_leaves if plain else None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Program:
        other = memo[id(self)] = copy.copy(self)  # tree specs cannot be copied without a warning
        other.palindrome = copy.deepcopy(self.palindrome, memo)
        other.subset = copy.deepcopy(self.subset, memo)
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
    ) -> _Program:
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
        found = [getattr(model.get_submodule(path), name) for path, name in self.owners]
        if decoder is not None:
            found += [getattr(decoder.get_submodule(path), name) for path, name in self.twins]
        for (path, _), weight in zip([*self.owners, *self.twins], found, strict=False):
            _check_gathered(path, weight)
        return found

    def train(
        self, model: nn.Module, decoder: nn.Module | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # if it fails inside the model's own no_grad
            outputs, distances = self.palindrome.training(
                *self.weights(model, decoder), *self.constants, *self._inputs(args, kwargs)
            )
        return self.nest(outputs), distances

    def pairs(
        self, model: nn.Module, decoder: nn.Module | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
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


class _Configuration:
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
        return self.modules == self._modules(model) and all(
            (now := getattr(m, name, _MISSING)) is value or now == value for m, name, value in self.settings
        )


_MISSING = object()


def _parameter_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the model's arguments that can be given by position."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++
        return []
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"example_inputs do not fit {type(model).__name__}.forward{signature}: {error}") from error
    return [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise ArgumentError(
        f"example_inputs must be a tensor, a tuple of arguments or a dict of keywords, not {type(example).__name__}"
    )


def _check_choices(model: object, reduction: object, input_range: object, norm_statistics: object) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction must be 'mean' or 'sum', not {reduction!r}")
    if norm_statistics not in ("separate", "shared"):
        raise ArgumentError(f"norm_statistics must be 'separate' or 'shared', not {norm_statistics!r}")
    if input_range is not None and input_range != "paper" and not callable(input_range):
        raise ArgumentError(f"input_range must be None, 'paper' or a function, not {input_range!r}")


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
    if hasattr(weight, "device_mesh"):  # a DTensor, without an import of torch.distributed.tensor
        where = f"module {path!r}" if path else "the model"
        raise ArgumentError(
            f"the weights of {where} are sharded among processes, but the reverse pass needs them whole, together "
            "with all others. Make the Racecar first and shard it at its root alone: "
            "rr = racecar.Racecar(model, ...); fully_shard(rr). For rr.reconstruct: "
            "torch.distributed.fsdp.register_fsdp_forward_method(rr, 'reconstruct')"
        )


def _check_variant(options: Options) -> None:
    fraction, subset = options.fraction, options.subset
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ArgumentError(f"fraction must be a share of the batch, above 0 and at most 1, not {fraction!r}")
    if subset is not None and (isinstance(subset, bool) or not isinstance(subset, int) or subset < 1):
        raise ArgumentError(f"subset must be a number of layers, 1 or more, or None, not {subset!r}")
    for name in ("layerwise", "checkpoint"):
        if not isinstance(value := getattr(options, name), bool):
            raise ArgumentError(f"{name} must be True or False, not {value!r}")
    if options.checkpoint and options.norm_statistics == "shared":
        raise ArgumentError(
            "checkpoint=True runs the reverse pass twice, so that norm_statistics='shared' would count its statistics "
            "twice: choose one of them"
        )


def _varied(palindrome: Palindrome, options: Options) -> tuple[Palindrome, Subset | None]:
    """The palindrome with the training program that the cheaper variants ask for."""
    if options.fraction != 1:
        if palindrome.sized == "batch":
            raise ArgumentError("fraction: what is known differs between the samples of a batch: leave it out")
        share(palindrome.training, options.fraction, options.reduction)
    subset = None
    if options.subset is not None:
        if options.subset > len(palindrome.layers):
            raise ArgumentError(f"subset={options.subset}, but only {len(palindrome.layers)} layers are compared")
        subset = Subset(options.subset, palindrome.homes)
    if not options.checkpoint and subset is None:
        return palindrome, None
    divided = divide(palindrome.training, recomputed=options.checkpoint, subset=subset)
    return replace(palindrome, training=divided), subset


def _check_decoder(decoder: object, model: nn.Module) -> None:
    if not isinstance(decoder, nn.Module):
        raise ArgumentError(f"decoder must be a torch.nn.Module, not {type(decoder).__name__}")
    if decoder is model:
        raise ArgumentError("decoder is the model itself: give a copy, or None to share the weights")
    ours, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, decoder))
    if ours != theirs:
        differing = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        raise ArgumentError(
            f"decoder must have the model's parameters, but {', '.join(map(repr, differing[:5]))} differ: use e.g. "
            "copy.deepcopy(model)"
        )


def _check_weight(weight: Weight, count: int, model: nn.Module) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = torch.promote_types(like.dtype, torch.float32)
    try:
        values = torch.as_tensor(weight, dtype=dtype).detach().to(like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"weight must be a number or one number per compared layer, not {weight!r}") from error
    if values.ndim == 0:
        values = values.repeat(count)
    if values.shape != (count,):
        raise ArgumentError(
            f"weight has {' × '.join(map(str, values.shape))} values, but {count} layers are compared: one λ each"
        )
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(f"weight must be finite and not negative, not {weight!r}")
    return values.clone()
