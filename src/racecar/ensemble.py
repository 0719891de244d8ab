"""Many networks of one architecture in one program: stacked weights, the palindrome under ``vmap``, one λ vector each.

Members differ in weights (seeds), in λ (Std is λ = 0) and in data; each ends with the weights it would have if it were
trained alone. Worth it for small networks, where the overhead of each operation is what costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from racecar.errors import ArgumentError
from racecar.flat_program import batch_last, flatten
from racecar.module import Racecar
from racecar.options import Weight

aten = torch.ops.aten

Criterion = Callable[..., Tensor]
Regulariser = Callable[..., Tensor]


# Of the options of Racecar; λ are the members' own.
_TAKEN = ("layers", "start", "weight", "reduction", "input_range", "norm_statistics", "layerwise")


class Ensemble(nn.Module):
    """Train M networks of one architecture together.

    Args:
        models: M modules of one class and shape; their weights are copied and stacked.
        example_inputs: for one member, as for :class:`racecar.Racecar`.
        weights: λ per member: M numbers or M sequences of one λ_m per compared layer. Members whose λ are all zero
            run no reverse pass. None: no member does.
        options: ``layers``, ``start``, ``reduction``, ``input_range``, ``norm_statistics`` of :class:`racecar.Racecar`.

    Attributes:
        stacked: name → parameter [M, …]. Give ``ensemble.parameters()`` to an optimiser that works element by element
            (SGD, Adam, …): it then treats every member as if it were alone.

    Raises:
        ArgumentError: no members, members of different shapes, wrong λ, or buffers that training would change.

    Example:
        >>> import torch, racecar
        >>> nets = [torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()) for _ in range(5)]
        >>> ensemble = racecar.Ensemble(nets, torch.randn(8, 4), weights=[0.0, 0.0, 0.1, 0.1, 0.1])
        >>> step = ensemble.gradients(torch.nn.functional.cross_entropy)
        >>> losses = step(torch.randn(5, 8, 4), torch.zeros(5, 8, dtype=torch.long))
        >>> losses.shape
        torch.Size([5])
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        example_inputs: Any,
        *,
        weights: Sequence[Weight] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not models:
            raise ArgumentError("an ensemble needs at least one model")
        first = models[0]
        _check_alike(models)
        weights = [0.0] * len(models) if weights is None else weights
        if len(weights) != len(models):
            raise ArgumentError(f"weights has {len(weights)} entries for {len(models)} models: one λ (or list) each")
        rr = Racecar(first, example_inputs, weight=0.0, **options)
        if others := rr.options.changed(*_TAKEN):
            raise ArgumentError(
                "an ensemble runs the whole reverse pass in every call, with the members' own weights: it takes no "
                f"{', '.join(f'{name}=' for name in others)}"
            )
        lambdas = []
        for member, weight in enumerate(weights):
            try:
                lambdas.append(rr.reweighted(weight).lambdas)
            except ArgumentError as error:
                raise ArgumentError(f"member {member}: {error}") from error
        self._program = rr.program
        self.layers = rr.layers
        self.size = len(models)
        self.register_buffer("lambdas", torch.stack(lambdas), persistent=False)
        self._names = {name: name.replace(".", "/") for name, _ in first.named_parameters()}
        for name, key in self._names.items():
            stack = torch.stack([m.get_parameter(name).detach() for m in models])
            self.register_parameter(key, nn.Parameter(stack, requires_grad=first.get_parameter(name).requires_grad))
        for name, _ in first.named_buffers():
            self._names[name] = name.replace(".", "/")
            self.register_buffer(self._names[name], torch.stack([m.get_buffer(name) for m in models]))
        for module in (self._program.palindrome.forward, self._program.palindrome.training):
            batch_last(module)

    lambdas: Tensor

    @property
    def stacked(self) -> dict[str, Tensor]:
        """Parameter and buffer name in the model → tensor [M, …]."""
        return {name: getattr(self, key) for name, key in self._names.items()}

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> tuple[Any, Tensor]: ...  # noqa: D102

    def forward(self, x: Tensor) -> tuple[Any, Tensor]:
        """(outputs [M, batch, …], penalties [M]) for inputs x [M, batch, …]."""
        outputs, distances = torch.func.vmap(self._train_one)(self._weights(), x)
        return outputs, (self.lambdas * distances).sum(1)

    def activations(self, x: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        """(outputs, inputs L_m of the compared layers), each [M, batch, …], for inputs x [M, batch, …].

        The forward pass alone, without gradients. ``x.expand(M, …)`` gives all members the same inputs.
        """
        with torch.no_grad():
            return torch.func.vmap(self._forward_one)(self._weights(), x)

    def state_dict_of(self, member: int) -> dict[str, Tensor]:
        """A copy of one member's weights, to be loaded into the plain model."""
        return {name: tensor[member].detach().clone() for name, tensor in self.stacked.items()}

    def gradients(self, criterion: Criterion, regulariser: Regulariser | None = None) -> GradientProgram:
        """A program that computes every member's loss and fills the gradients: see :class:`GradientProgram`."""
        return GradientProgram(self, criterion, regulariser)

    def _weights(self) -> list[Tensor]:
        """In the order of the program's inputs."""
        stacked = self.stacked
        return [stacked[name] for name in self._program.names]

    def _train_one(self, weights: list[Tensor], x: Tensor) -> tuple[Any, Tensor]:
        outputs, distances = self._program.palindrome.training(*weights, *self._program.constants, x)
        return self._program.nest(outputs), distances

    def _forward_one(self, weights: list[Tensor], x: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        outputs, inputs = self._program.palindrome.forward(*weights, *self._program.constants, x)
        return self._program.nest(outputs), inputs


class GradientProgram:
    """losses = program(x, *targets): every member's loss, and its gradient in ``ensemble.parameters()``.

    Forward, reverse and backward pass of all members are traced once per input shape into one flat list of ATen
    operations: no autograd, no ``vmap`` and no compiler at run time.

    Args:
        ensemble: the members.
        criterion: ``criterion(output, *targets) → scalar`` for one member, as in ordinary training.
        regulariser: ``regulariser(stacked parameters, *extras) → [M]``, added to the losses (e.g. SRIP with β per
            member); ``extras`` are given at each call.
    """

    def __init__(self, ensemble: Ensemble, criterion: Criterion, regulariser: Regulariser | None) -> None:
        self.ensemble, self.criterion, self.regulariser = ensemble, criterion, regulariser
        self._programs: dict[Any, fx.GraphModule] = {}
        self._trained = [n for n, t in ensemble.stacked.items() if isinstance(t, nn.Parameter) and t.requires_grad]
        self._fixed = [n for n in ensemble.stacked if n not in self._trained]
        self._parameters = [ensemble.stacked[n] for n in self._trained]

    def __call__(self, x: Tensor, *targets: Tensor, extras: Sequence[Tensor] = ()) -> Tensor:
        """x [M, batch, …] and targets [M, …] → losses [M]. Overwrites ``.grad``."""
        stacked = self.ensemble.stacked
        arguments = (
            [stacked[n].detach() for n in self._trained],
            [stacked[n] for n in self._fixed],
            self.ensemble.lambdas,
            x,
            targets,
            list(extras),
        )
        key = tuple((t.shape, t.stride(), t.dtype, t.device) for t in (x, *targets, *extras))
        with torch.no_grad():
            if key not in self._programs:
                self._programs[key] = flatten(self._gradient, arguments)
            gradients, losses = self._programs[key](*arguments)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            # Laid out as the parameter: fused optimisers walk through the memory of both.
            parameter.grad = gradient.contiguous()
        return losses

    def _gradient(self, *arguments: Any) -> Any:
        return torch.func.grad(self._total, has_aux=True)(*arguments)

    def _total(
        self,
        trained: list[Tensor],
        fixed: list[Tensor],
        lambdas: Tensor,
        x: Tensor,
        targets: tuple[Tensor, ...],
        extras: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The sum of the members' losses: as no member sees another's weights, its gradient is theirs."""
        ensemble, names = self.ensemble, self.ensemble._program.names
        stacked = dict(zip(self._trained + self._fixed, trained + fixed, strict=True))
        weights = [stacked[name] for name in names]
        mirrored = (ensemble.lambdas != 0).any(1).tolist()
        count = sum(mirrored)
        if count == 0:
            outputs, _ = torch.func.vmap(ensemble._forward_one)(weights, x)
            losses = torch.func.vmap(self.criterion)(outputs, *targets)
        elif count == ensemble.size or mirrored != sorted(mirrored, reverse=True):
            outputs, distances = torch.func.vmap(ensemble._train_one)(weights, x)
            losses = torch.func.vmap(self.criterion)(outputs, *targets) + (lambdas * distances).sum(1)
        else:  # the members with λ come first: the others need no reverse pass
            outputs, distances = torch.func.vmap(ensemble._train_one)([w[:count] for w in weights], x[:count])
            plain, _ = torch.func.vmap(ensemble._forward_one)([w[count:] for w in weights], x[count:])
            outputs = pytree.tree_map(lambda a, b: torch.cat([a, b]), outputs, plain)
            losses = torch.func.vmap(self.criterion)(outputs, *targets)
            losses = losses + nn.functional.pad((lambdas[:count] * distances).sum(1), (0, ensemble.size - count))
        if self.regulariser is not None:
            losses = losses + self.regulariser(stacked, *extras)
        return losses.sum(), losses


def _check_alike(models: Sequence[nn.Module]) -> None:
    def shape(model: nn.Module) -> dict[str, Any]:
        return {n: (tuple(t.shape), t.dtype, t.device) for n, t in model.state_dict().items()}

    for i, model in enumerate(models):
        if type(model) is not type(models[0]) or shape(model) != shape(models[0]):
            raise ArgumentError(f"model {i} differs from model 0 in class or in the shapes of its weights")
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats and module.training:
                raise ArgumentError(
                    f"module {name!r} keeps running statistics, which an ensemble cannot update member by member: use "
                    "track_running_stats=False or another normalisation"
                )
