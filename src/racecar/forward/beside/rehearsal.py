"""The real model run once on the example, before it is exported: what it returns, changes and draws.

A graph holds tensors and their operations; whatever else a forward does in Python would be lost without a word. The
rehearsal sees it: a program has to give the same (:mod:`racecar.proof`), and what no graph can do is refused here.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from racecar.errors import ExportError
from racecar.forward.beside.sketch import Sketch, sketch
from racecar.forward.beside.state import Change, State, own_buffers


@dataclass(frozen=True)
class Rehearsal:
    """What one call of the real model gave.

    Attributes:
        outputs: flat, detached.
        gradients: sketches of those of a random projection of the outputs, by the parameter's name; None where it
            has none.
        buffers: after the call, by name.
        custom: names of the ``autograd.Function`` on the way back from the outputs.
        changes: of attributes, containers and buffers.
    """

    outputs: list[Any]
    gradients: dict[str, Sketch | None]
    buffers: dict[str, Tensor]
    custom: tuple[str, ...] = ()
    changes: list[Change] = field(default_factory=list, repr=False)

    @property
    def set_to_constants(self) -> list[Change]:
        """Numbers, words and flags that the call has set to others."""
        return [c for c in self.changes if c.kind == "attribute" and not c.new and not c.traced]


def check_constants(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], real: Rehearsal, constants: list[Tensor]
) -> None:
    """Refuse a graph that holds as a constant what every call changes on ``self``.

    Args:
        model, args, kwargs: the call.
        real: its rehearsal, without the user's hooks.
        constants: tensors in the graph that are neither parameters nor buffers.

    Raises:
        ExportError: naming the attribute.
    """
    held = {id(constant) for constant in constants}

    def read(changes: list[Change]) -> Change | None:
        return next(
            (c for c in changes if c.kind != "buffer" and any(id(v) in held for v in pytree.tree_leaves(c.then))), None
        )

    change = read(real.changes)
    attributes = [leaf for m in model.modules() for leaf in pytree.tree_leaves([*vars(m).values()])]
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    if change is None and hooked and any(id(leaf) in held for leaf in attributes):
        # The graph reads a tensor from an attribute, which a hook may put there: only here are the hooks run.
        with _undone(model) as start:
            model(*args, **kwargs)
            change = read(list(start.changes()))
    if change is not None:
        raise ExportError(
            f"the forward of {type(model).__name__} reads self.{change.place}, which an earlier call or a hook has "
            "stored there: the graph would read that one value for ever. Keep a state in a buffer (register_buffer, "
            "copy_), and return an activation from the module's forward instead of storing it in a hook"
        )


def rehearse(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rehearsal:
    """Call the model as it is, without the user's hooks.

    Buffers, random state and attributes are as before afterwards, but for what the call has made: an attribute or
    buffer that was None or missing, a new key of a dict. That stays, as it would after any first call.

    Raises:
        ExportError: the model fails on the example, or draws Python's or NumPy's random numbers.
    """
    python, arrays = random.getstate(), _numpy_state()

    def call() -> list[Any]:
        try:
            output = model(*args, **kwargs)
        except Exception as error:
            sizes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ExportError(
                f"{type(model).__name__} fails on inputs of shape {sizes}: {reason}\nCheck that the model itself runs "
                "on such inputs. The whole reason is above, as this error's cause."
            ) from error
        for source, moved in (
            ("Python's random module", random.getstate() != python),
            ("numpy.random", not _same_numpy(arrays, _numpy_state())),
        ):
            if moved:
                raise ExportError(
                    f"the forward of {type(model).__name__} draws from {source}, which a graph would do once for all: "
                    "draw with torch (torch.where(torch.rand(()) < p, a, b)), or give verify=False where the draw does "
                    "not matter"
                )
        return pytree.tree_leaves(output)

    try:
        return run(model, call)
    finally:
        random.setstate(python)
        if arrays is not None:
            sys.modules["numpy"].random.set_state(arrays)


def run(model: nn.Module, call: Callable[[], list[Any]]) -> Rehearsal:
    """What a call gives that returns the model's flat outputs, by the model itself or by a program of it."""
    with _undone(model) as start:
        leaves = call()
        gradients = sketched_gradients(leaves, dict(model.named_parameters()))
        custom = tuple(sorted(_custom_functions(leaves)))
        buffers = {name: b.detach().clone() for name, b in model.named_buffers(remove_duplicate=False)}
        changes = list(start.changes())
    return Rehearsal([_detached(v) for v in leaves], gradients, buffers, custom, changes)


def gradients_of(model: nn.Module, call: Callable[[], list[Any]], names: Sequence[str]) -> dict[str, Tensor | None]:
    """The gradients themselves that :func:`run` keeps sketches of, of some parameters, in one more call."""
    with _undone(model):
        parameters = dict(model.named_parameters())
        total, wanted = _projected(call()), [parameters[name] for name in names]
        if total is None:
            return dict.fromkeys(names)
        try:
            return dict(zip(names, torch.autograd.grad(total, wanted, allow_unused=True), strict=True))
        except RuntimeError:  # an operation without a derivative
            return dict.fromkeys(names)


@contextlib.contextmanager
def _undone(model: nn.Module) -> Iterator[State]:
    """What a call does to buffers, attributes and random state is undone; what it has made stays if it succeeds."""
    devices = list({p.device for p in model.parameters() if p.device.type == "cuda"})
    before = State(model)
    made = False
    try:
        with own_buffers(model), torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a model warns of is said when the user calls it
            yield State(model)
            made = True
    finally:
        before.restore(keep_new=made)


def sketched_gradients(leaves: list[Any], parameters: Mapping[str, Tensor]) -> dict[str, Sketch | None]:
    """Gradient of Σ ⟨output, random numbers⟩ with respect to each parameter: the same numbers at every call.

    Each is reduced when it comes and freed: together they would be as large as the weights. Empty where the outputs
    cannot be differentiated.
    """
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    found: dict[str, Sketch | None] = dict.fromkeys(trained)
    total = _projected(leaves)
    if total is None or not trained:
        return found

    failed: list[Exception] = []

    def take(name: str, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:  # a function of the user's that gives none
            return None
        try:
            before, came = found[name], sketch(gradient)
            found[name] = came if before is None else before + came
        except Exception as error:  # is no failure of the model's
            failed.append(error)
        return gradient.new_zeros(()).expand(gradient.shape)

    # Hooks of the tensor, not of its accumulator, which DistributedDataParallel listens to.
    hooked = [(p, p._backward_hooks) for p in trained.values()]
    handles = [p.register_hook(functools.partial(take, name)) for name, p in trained.items()]
    try:
        torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    except RuntimeError:  # an operation of the user's without a derivative: there is none to compare
        if not failed:
            return {}
    finally:
        for handle in handles:
            handle.remove()
        for p, hooks in hooked:
            if hooks is None:
                p._backward_hooks = None
    if failed:
        raise failed[0]
    return found


def _projected(leaves: list[Any]) -> Tensor | None:
    """Σ ⟨output, random numbers⟩; None where no output can be differentiated."""
    generator = torch.Generator().manual_seed(0)
    total: Tensor | None = None
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point() and leaf.numel():
            numbers = torch.randn(leaf.shape, generator=generator).to(leaf.device, leaf.dtype)
            term = (leaf * numbers).sum().double() / max(1, leaf.numel()) ** 0.5
            total = term if total is None else total + term
    return total


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _custom_functions(leaves: list[Any]) -> set[str]:
    waiting = [leaf.grad_fn for leaf in leaves if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    seen: set[Any] = set()
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            names.add(type(node).__name__.removesuffix("Backward"))
        waiting.extend(following for following, _ in node.next_functions if following is not None)
    return names


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return numpy.random.get_state() if numpy is not None else None


def _same_numpy(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return a[0] == b[0] and bool((a[1] == b[1]).all()) and a[2:] == b[2:]
