"""``Racecar``: the one line a user adds. Wraps a model, keeps its palindrome up to date, returns output and penalty."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.configuration import Configuration
from racecar.errors import ArgumentError, NonFiniteError
from racecar.every import Turn, ring
from racecar.explanation import Explanation
from racecar.forward.beside.values import check_loaded, device_of, first_missing
from racecar.options import (
    Checkpoint,
    Example,
    InputRange,
    Layers,
    NormStatistics,
    Options,
    Reduction,
    Weight,
    as_call,
    check_decoder,
    check_model,
    positional_names,
)
from racecar.passes.segments import Draw, Subset
from racecar.plot import plot
from racecar.program import Program
from racecar.sharded import is_sharded
from racecar.together import Together, Wrapping

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    class Called(tuple[Any, Tensor], Any):
        """What a call returns, for type checkers: (output, penalty) in training, the model's own output in evaluation.

        Which one it is hangs on the mode, which no type knows. So it is taken apart as the pair, whose second is a
        tensor, and taken for anything else that a model may return.
        """


_EXPLAINED = ("layers", "start", "weight")  # by the table itself
_CONFIGURATIONS = 8  # of the model whose programs are kept, for when they come back
_SIZES = 64  # of inputs whose programs are kept, the latest ones
_BATCHES = 4  # programs for one batch size each, before one for any size is tried


class _Derived(NamedTuple):
    """The programs of one configuration of the model, for inputs of several sizes."""

    configuration: Configuration
    programs: list[Program]


class Racecar(nn.Module):
    """Racecar training for any model (Eq. 1): ``output, penalty = rr(x)``.

    In training mode a call runs the model's forward pass, the mirrored pass that reuses all its weights backwards,
    and Σ_m λ_m ½‖L_m − L'_m‖², as one program. In evaluation mode a call is a call of the untouched model and
    returns just its output. The model's parameters, buffers and ``state_dict`` stay its own.

    Args:
        model: any module that ``torch.export`` can trace; it is neither copied nor changed. Its weights may still be on
            the meta device: it is mirrored then, and proved at the first call with weights.
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
            backward pass: less memory, a third more arithmetic. ``"both"``: the forward pass is as well, block by
            block, as with ``torch.utils.checkpoint`` around each block of the model: memory of a few blocks.
        verify: every derivation proves itself: program and model run once on the example, and outputs, buffers and
            gradients must agree. False leaves that out: no call of the model, and no proof.

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
        checkpoint: Checkpoint = False,
        verify: bool = True,
    ) -> None:
        super().__init__()
        check_model(model)
        self._options = Options(
            layers=layers,
            start=start,
            weight=weight,
            reduction=reduction,
            input_range=input_range,
            norm_statistics=norm_statistics,
            decoder=decoder is not None,
            every=every,
            fraction=fraction,
            layerwise=layerwise,
            subset=subset,
            checkpoint=checkpoint,
            verify=verify,
        )
        if decoder is not None:
            check_decoder(decoder, model)
        self.model, self.decoder = model, decoder
        self._turn = ring(every)
        args, kwargs = as_call(example_inputs)
        self._order = positional_names(model, args, kwargs)
        args, kwargs = self._positional(args, kwargs)
        self._palindromes: dict[bool, list[_Derived]] = {}
        self._example = Example(args, kwargs)
        self._pending: tuple[Tensor, Tensor | None] | None = None
        self._wrapping = Wrapping()
        self.check_finite = True
        self.draws = 0
        palindrome = self._program(args, kwargs, training=True).palindrome
        lambdas = self._options.lambdas(len(palindrome.layers), model, device_of((args, kwargs)))
        self.register_buffer("lambdas", lambdas, persistent=False)
        self.training = model.training  # train() would change the modes of submodules that the user has set

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the compared layers, from the network's input on; each has one λ_m."""
        return self.program.palindrome.layers

    @property
    def every(self) -> int:
        """The reverse pass runs in one of so many training calls."""
        return self._options.every

    @property
    def calls(self) -> int:
        """Training calls so far, modulo ``every``; at 0 the next one runs the reverse pass.

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
        """What the constructor was asked for."""
        return self._options

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Called: ...  # noqa: D102

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Training: (the model's output, the penalty, a scalar). Evaluation: the model's output.

        Raises:
            NonFiniteError: the penalty of a layer is infinite or NaN. On an accelerator this is reported at the next
                call with a reverse pass, so that it need not be waited for; under ``torch.compile`` it is not checked,
                and neither is whether the model's modes, hooks or sizes ask for another palindrome than at the last
                uncompiled call. Processes under DistributedDataParallel or FSDP2 raise it together; where several call
                otherwise and one must not stop alone, set ``check_finite`` to False.
            ArgumentError: such processes do not call alike: see :mod:`racecar.together`.
        """
        if not self.training:
            return self.model(*args, **kwargs)
        turn = self._turn
        together = None if torch.compiler.is_compiling() else self._together(turn)
        self._turn = turn.following
        if not turn.due:  # the model itself, not its exported forward pass: what is no racecar training stays as it is
            return self.model(*args, **kwargs), self.lambdas.new_zeros(())
        args, kwargs = self._positional(args, kwargs)
        program = self._program(args, kwargs, training=self.model.training)
        layers = program.palindrome.layers
        if len(layers) != len(self.lambdas):
            raise ArgumentError(
                f"the model has changed: it now has {len(layers)} compared layers ({', '.join(map(repr, layers))}) for "
                f"{len(self.lambdas)} λ: make a new Racecar"
            )
        draw = self._draw(program.subset)
        output, distances = program.train(self, args, kwargs, draw)
        terms = self.lambdas * distances
        if draw is not None:
            terms = terms * terms.new_tensor(draw.weights)
        if self.check_finite and not torch.compiler.is_compiling():
            self._check_finite(terms.detach(), (args, kwargs), output, together)
        penalty = terms.sum()
        return output, penalty if self.every == 1 else self.every * penalty

    def distances(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """The penalty's parts: (the model's output, ½‖L_m − L'_m‖² of every compared layer, [n], without λ).

        Forward and reverse pass in the model's current mode, with all that a call does to running statistics and
        random state; it is no training call that ``calls`` counts.
        """
        args, kwargs = self._positional(args, kwargs)
        program = self._program(args, kwargs, training=self.model.training)
        return program.train(self, args, kwargs)

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
            pairs = program.pairs(self, args, kwargs)
        return dict(zip(program.palindrome.layers, pairs, strict=True))

    def plot(self, *args: Any, layer: str | None = None, **kwargs: Any) -> Figure:
        """Draw a look inside: pairs (L_m, L'_m), their distance by layer, and the singular values of a layer's weight.

        Args:
            args, kwargs: inputs of a call, as for :meth:`reconstruct`, which is what is drawn.
            layer: whose singular values; the first compared one by default.

        Returns:
            A matplotlib figure: a notebook shows it, TensorBoard's ``add_figure`` takes it, ``savefig`` writes it.

        Raises:
            ArgumentError: ``layer`` is not compared. ImportError: matplotlib is not installed.
        """
        return plot(self, args, kwargs, layer)

    def explain(self) -> Explanation:
        """The table of the palindrome: layer, forward, reverse, compared or not, FLOPs, λ. ``print`` it."""
        palindrome = self.program.palindrome
        return Explanation(
            palindrome.steps,
            palindrome.start,
            tuple(self.lambdas.tolist()),
            self._options.changed(*_EXPLAINED),
            palindrome.left_out,
        )

    @property
    def program(self) -> Program:
        """The training program and the names of the weights it reads (for :mod:`racecar.ensemble`)."""
        if not self._palindromes.get(True):  # just unpickled
            args, kwargs = self._example.inputs(self.lambdas.device)
            return self._program(args, kwargs, training=True)
        return self._palindromes[True][0].programs[0]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, ``torch.save`` and processes that are started: without programs, which are derived again."""
        return vars(self) | {"_palindromes": {}, "_pending": None, "_wrapping": Wrapping()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Racecar:
        other = memo[id(self)] = Racecar.__new__(Racecar)
        for name, value in vars(self).items():
            vars(other)[name] = copy.deepcopy(value, memo)
        return other

    def reweighted(self, weight: Weight) -> Racecar:
        """The same palindrome of the same model with other λ, without deriving it again."""
        other = Racecar.__new__(Racecar)
        vars(other).update(vars(self))
        other._options = dataclasses.replace(self._options, weight=weight)
        other._buffers = {"lambdas": other._options.lambdas(len(self.layers), self.model, self.lambdas.device)}
        return other

    def _draw(self, subset: Subset | None) -> Draw | None:
        """Choose the layers that this call compares; None for all."""
        if subset is None:
            return None
        if torch.compiler.is_compiling():
            raise ArgumentError(
                "subset draws layers in Python at every call, which torch.compile would do once for all: leave one out"
            )
        self.draws += 1
        return subset.draw(self.draws - 1)

    def _program(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> Program:
        """The program for the model's present configuration and these inputs; derived when there is none yet."""
        known = self._palindromes.setdefault(training, [])
        if known and torch.compiler.is_compiling():
            return known[0].programs[0]
        place = next((i for i, derived in enumerate(known) if derived.configuration.holds(self.model)), None)
        if place:  # the one that was used last comes first
            known.insert(0, known.pop(place))
        programs = known[0].programs if place is not None else []
        for program in programs:
            if program.fits(args, kwargs):
                if program.proved or self._lacks_values():
                    return program
                programs.clear()  # derived before there were weights: again, with its proof
                break
        # Most models see one size: it is only when another comes that the graph must hold for any. Another batch is
        # none: where the batch cannot vary, a program for every one of them costs far less.
        another = any(not program.fits_but_for_the_batch(args, kwargs) for program in programs)
        sizes_vary = another or len(programs) > _BATCHES
        alike = next((p for p in programs if p.holds_in_other_sizes(args, kwargs)), None)
        resized = None if alike is None else alike.resized(args, kwargs)
        if resized is not None:
            program = resized
        else:
            exported = None if alike is None else alike.source
            program = Program.derive(
                self.model, args, kwargs, self._options, training=training, sizes_vary=sizes_vary, exported=exported
            )
        if place is None:
            known.insert(0, _Derived(Configuration(self.model, program.carried), programs))
            del known[_CONFIGURATIONS:]
        programs.append(program)
        del programs[1:-_SIZES]  # the first is the example's
        return program

    def _together(self, turn: Turn) -> Together | None:
        """The processes that make this call together, after a look that they do it alike."""
        together = self._wrapping.processes(self, self.model, untied=self.decoder is not None)
        if together is not None and self.every > 1:
            together.check_turn(turn.position, self.lambdas.device)
        return together

    def _lacks_values(self) -> bool:
        """Whether weights are sharded; those on the meta device are refused."""
        missing = first_missing(self.model)
        check_loaded(missing)
        return missing is not None

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
        # to_empty() leaves no values; in half precision there is no λ as small as 1e-9.
        dtype = lambdas.dtype if self.lambdas.dtype in (torch.float16, torch.bfloat16) else self.lambdas.dtype
        if not self.lambdas.is_meta:
            self.lambdas = lambdas.to(self.lambdas.device, dtype)
        return self

    def _replicate_for_data_parallel(self) -> Racecar:
        raise ArgumentError(
            "torch.nn.DataParallel cannot run a Racecar, as its copies of the model have no palindrome: start a "
            "process per GPU and use torch.nn.parallel.DistributedDataParallel(rr)"
        )

    def _check_finite(self, terms: Tensor, inputs: Any, output: Any, together: Together | None) -> None:
        """Raise NonFiniteError for the terms of this call, on an accelerator for those of the call before.

        Processes that call together raise it together: one of them alone would leave the others waiting.
        """
        elsewhere = None if together is None else together.largest((~terms.sum().isfinite()).float())
        found = terms, elsewhere
        previous, self._pending = (found, None) if terms.device.type == "cpu" else (self._pending, found)
        if previous is None:
            return
        terms, elsewhere = previous
        finite = math.isfinite(terms.sum())
        if (finite and not elsewhere) or not self.lambdas.any():  # with λ = 0 nothing is asked of the penalty
            return
        if finite:
            raise NonFiniteError("the racecar penalty is not finite on another process, which says where.")
        weights = [*self.model.named_parameters(), *self.model.named_buffers()]
        broken = next((name for name, t in weights if not _finite(t)), None)
        if broken is not None:
            reason = f"{broken!r} of the model is not: an earlier step has spoilt it, or it was loaded so"
        elif not all(map(_finite, pytree.tree_leaves(inputs))):
            reason = "its input is not"
        elif not all(map(_finite, pytree.tree_leaves(output))):
            reason = "the model's own output is not: its forward pass overflows"
        else:
            # The reverse pass runs from the last layer to the first.
            values = zip(self.layers, terms.tolist(), strict=True)
            first = next((n for n, v in reversed(list(values)) if not math.isfinite(v)), "(their sum)")
            reason = (
                f"the reverse pass grew without bound, first at layer {first!r}: lower weight= or the learning rate, "
                "compare fewer layers, or let the pass begin anew at every layer (layerwise=True)"
            )
        raise NonFiniteError(f"the racecar penalty is not finite, because {reason}.")

    def __repr__(self) -> str:
        """One line: the model's class, what is compared, and the options in the constructor's words."""
        shown = {"reduction": self._options.reduction} | self._options.changed("layers", "reduction", "weight")
        options = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        names = [*self.layers] if len(self.layers) < 6 else [*self.layers[:2], "…", self.layers[-1]]
        return (
            f"Racecar({type(self.model).__name__}, {len(self.layers)} layers compared: {', '.join(names)}; {options})"
        )


def _finite(value: Any) -> bool:
    if is_sharded(value):  # the own part: to ask for the others' this process is alone
        value = value.to_local()
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())
