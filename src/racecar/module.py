"""``Racecar``: the one line a user adds. Wraps a model, keeps its palindrome up to date, returns output and penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.errors import ArgumentError, NonFiniteError
from racecar.explain import Explanation
from racecar.forward import export_forward
from racecar.loss import Reduction
from racecar.palindrome import InputRange, Layers, NormStatistics, Options, Palindrome, build

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
    ) -> None:
        super().__init__()
        _check_choices(model, reduction, input_range, norm_statistics)
        args, kwargs = _as_call(example_inputs)
        self.model = model
        self._options = Options(layers, start, reduction, input_range, norm_statistics)
        self._palindromes: dict[bool, tuple[Any, _Program]] = {}
        self._pending: Tensor | None = None
        palindrome = self._program(args, kwargs, training=True).palindrome
        self.register_buffer(
            "lambdas", _check_weight(weight, len(palindrome.layers), model), persistent=False
        )
        self.train(model.training)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the compared layers, from the network's input on: one λ_m each."""
        return self._palindromes[True][1].palindrome.layers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Training: (the model's output, the penalty, a scalar). Evaluation: the model's output.

        Raises:
            NonFiniteError: the penalty of a layer is infinite or NaN. On an accelerator this is reported one call
                later, so that it need not be waited for; under ``torch.compile`` it is not checked.
        """
        if not self.training:
            return self.model(*args, **kwargs)
        program = self._program(args, kwargs, training=True)
        output, distances = program.train(self.model, args, kwargs)
        terms = self.lambdas * distances
        if not torch.compiler.is_compiling():
            self._check_finite(terms.detach())
        return output, terms.sum()

    def reconstruct(self, *args: Any, **kwargs: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Regenerate: layer name → (L_m, L'_m), the layer's input in the forward pass and in the reverse pass.

        Runs in the model's current mode and changes nothing, running statistics included. The first entry holds the
        input I and the regenerated input I' of Figures 5 and 8.
        """
        program = self._program(args, kwargs, training=self.training)
        return dict(zip(program.palindrome.layers, program.pairs(self.model, args, kwargs), strict=True))

    def explain(self) -> Explanation:
        """The table of the palindrome: layer, forward, reverse, compared or not, FLOPs, λ. ``print`` it."""
        palindrome = self._palindromes[True][1].palindrome
        return Explanation(palindrome.steps, palindrome.start, tuple(self.lambdas.tolist()))

    def _program(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> _Program:
        """The program for the model's present configuration; derived anew when that has changed."""
        known = self._palindromes.get(training)
        if known is not None and torch.compiler.is_compiling():
            return known[1]
        state = _configuration(self.model)
        if known is None or known[0] != state:
            program = _Program.derive(self.model, args, kwargs, self._options, training=training)
            self._palindromes[training] = known = (state, program)
        return known[1]

    def _check_finite(self, terms: Tensor) -> None:
        previous, self._pending = (terms, None) if terms.device.type == "cpu" else (self._pending, terms)
        if previous is None or math.isfinite(previous.sum()):
            return
        bad = [
            name
            for name, value in zip(self.layers, previous.tolist(), strict=True)
            if not math.isfinite(value)
        ]
        raise NonFiniteError(
            f"the racecar penalty is not finite at layer {', '.join(map(repr, bad)) or '(their sum)'}: the reverse "
            "pass grew without bound. Lower weight= or the learning rate, or compare fewer layers."
        )

    def extra_repr(self) -> str:
        """The options in the constructor's words."""
        return f"layers={list(self.layers)}, reduction={self._options.reduction!r}"


class _Program:
    """A palindrome bound to the names of the weights it reads from the model at every call."""

    def __init__(
        self, palindrome: Palindrome, weights: list[str], constants: list[Tensor], specs: Any
    ) -> None:
        self.palindrome, self.constants = palindrome, constants
        self.owners = [name.rpartition(".")[::2] for name in weights]
        self.in_spec, self.out_spec = specs
        # The usual case, one tensor out, is spared the pytree.
        self.single = self.out_spec.is_leaf()

    @classmethod
    def derive(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        *,
        training: bool,
    ) -> _Program:
        forward = export_forward(model, args, kwargs, training=training)
        leaves = pytree.tree_leaves((args, dict(kwargs)))
        palindrome = build(forward, model, leaves, options)
        return cls(palindrome, forward.weights, forward.constants, (forward.in_spec, forward.out_spec))

    def _inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        if not kwargs and all(isinstance(a, Tensor) for a in args):
            leaves = list(args)
        else:
            leaves = pytree.tree_leaves((args, dict(kwargs)))
        if len(leaves) != self.in_spec.num_leaves:
            raise ArgumentError(
                f"called with {len(leaves)} inputs, but the example had {self.in_spec.num_leaves}: call with the same "
                "arguments as example_inputs"
            )
        return leaves

    def weights(self, model: nn.Module) -> list[Tensor]:
        return [getattr(model.get_submodule(path), name) for path, name in self.owners]

    def train(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Tensor]:
        outputs, distances = self.palindrome.training(
            *self.weights(model), *self.constants, *self._inputs(args, kwargs)
        )
        return (outputs[0] if self.single else pytree.tree_unflatten(outputs, self.out_spec)), distances

    def pairs(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        weights = [w if isinstance(w, nn.Parameter) else w.clone() for w in self.weights(model)]
        return self.palindrome.pairs(*weights, *self.constants, *self._inputs(args, kwargs))


def _configuration(model: nn.Module) -> Any:
    """What the exported graph depends on and a user may change between two calls."""
    return tuple(
        (id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ), next((p.device for p in model.parameters()), None)


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


def _check_weight(weight: Weight, count: int, model: nn.Module) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = torch.promote_types(like.dtype, torch.float32)
    try:
        values = torch.as_tensor(weight, dtype=dtype).detach().to(like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"weight must be a number or one number per compared layer, not {weight!r}"
        ) from error
    if values.ndim == 0:
        values = values.repeat(count)
    if values.shape != (count,):
        raise ArgumentError(
            f"weight has {tuple(values.shape)} values, but {count} layers are compared: one λ each"
        )
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(f"weight must be finite and not negative, not {weight!r}")
    return values.clone()
