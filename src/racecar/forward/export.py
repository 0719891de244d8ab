"""From a model and an example to a clean forward graph: torch.export, then one pass after the other.

Every pass is a function of a file of its own and works on any graph of its kind: :func:`inline_regions` and
:func:`lift` on what torch.export gives, the others on what ``lift`` does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import _disable_current_modes

from racecar.errors import ArgumentError, ExportError
from racecar.forward.activations import fold_activations
from racecar.forward.beside.carried import carry
from racecar.forward.beside.checkpoints import checkpoints_inlined
from racecar.forward.beside.quiet import export_prints_nothing
from racecar.forward.beside.rehearsal import Rehearsal, check_constants
from racecar.forward.beside.values import device_of, stood_in_for
from racecar.forward.checks import drop_checks
from racecar.forward.composed import write_out
from racecar.forward.cumulative import read_counts, with_momentum
from racecar.forward.forms import normal_forms
from racecar.forward.graph import ForwardGraph, data_nodes
from racecar.forward.hooks import HOOKS, hooked_modules, keep_hooks, of_the_forward
from racecar.forward.in_place import out_of_place
from racecar.forward.lift import lift
from racecar.forward.own_backward import functions_marked, join, keep_backward
from racecar.forward.recurrent import one_operation_per_layer, states_in_shape
from racecar.forward.regions import inline_regions


@states_in_shape()
def export_forward(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    training: bool,
    sizes_vary: bool = False,
    rehearsal: Rehearsal | None = None,
    numbers: frozenset[int] = frozenset(),
) -> ForwardGraph:
    """Export ``model`` as it is configured now (every submodule in its own mode) and clean the graph.

    The batch may vary; other sizes too if ``sizes_vary``, which can take the tracer far longer.

    The model is left as it was: hooks, modes, attributes, buffers, random state.

    Args:
        model, args, kwargs: the call.
        training: the mode, if it is not the model's own.
        sizes_vary: see above.
        rehearsal: of the same call, if there was one.
        numbers: positions among the flat arguments of tensors that stand for numbers.

    Raises:
        ExportError: ``torch.export`` refuses the model, or the model does what no graph can.
    """
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach(), (args, dict(kwargs)))
    hooked = hooked_modules(model)
    constants = rehearsal.set_to_constants if rehearsal is not None else []
    with (
        as_configured(model, training),
        without_hooks(model),
        checkpoints_inlined(),
        with_momentum(model) as cumulative,
        functions_marked() as functions,
        export_prints_nothing(),
        carry(model, constants) as carried,
    ):
        try:
            program = _trace(model, args, kwargs, sizes_vary)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(_why_untraceable(model, args, kwargs, error)) from error
    inline_regions(program.graph_module)
    forward = lift(program, carried)
    forward.numbers = numbers
    if rehearsal is not None:
        with as_configured(model, training), checkpoints_inlined():
            check_constants(model, args, kwargs, rehearsal, forward.constants)
    join(forward)
    drop_checks(forward.graph)
    read_counts(forward, model, cumulative)
    write_out(forward)
    out_of_place(forward)
    normal_forms(forward)
    fold_activations(forward.graph)
    one_operation_per_layer(forward)
    forward.data = data_nodes(forward)
    keep_backward(forward, functions)
    keep_hooks(forward, hooked)
    forward.graph.lint()
    return forward


_DATA_DEPENDENT = "data-dependent"

# A part of what torch.export says → what the user can do.
_HINTS = {
    _DATA_DEPENDENT: "The forward branches on the values of a tensor, or takes a size from them, which a graph cannot "
    "do: use torch.where, give the size as a number (x.shape, an argument), or move the branch out of the model.",
    "which is not a known type": "The model takes or returns an object that is no nest of tensors. Hugging Face models "
    "return a cache unless they are told not to: set model.config.use_cache = False.",
    "constant's list": "The forward changes or reads a tensor beside the graph, by .data or in an object of its own: "
    "update buffers and weights under torch.no_grad() by their own methods (self.ema.mul_(0.9)).",
    "": "Check that the model itself runs on such inputs; racecar needs a forward that torch.export(strict=False) can "
    "trace.",
}


def _why_untraceable(model: nn.Module, args: Any, kwargs: Any, error: Exception) -> str:
    """What torch.export said, and what the user can do."""
    sizes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if _meets_packed(error):
        hint = "A recurrent layer meets a packed sequence, which racecar cannot mirror: give it the padded one."
    else:
        hint = next(words for sign, words in _HINTS.items() if sign in str(error))
    return (
        f"torch.export could not trace {type(model).__name__} with inputs of shape {sizes}: {reason}\n"
        f"{hint}{_place_in_model(error)} The whole reason is above, as this error's cause."
    )


def _place_in_model(error: BaseException) -> str:
    """The innermost line of code on the way to an error that is neither torch's nor racecar's."""
    own = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (torch, sys.modules["racecar"]))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*own, "<"))]
    # The first ones are the user's own call of racecar, unless the error passed through the model.
    if not frames or "forward" not in {f.name for f in frames}:
        return ""
    return f" It happens in {Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}."


def _meets_packed(error: BaseException) -> bool:
    """Whether a recurrent module has failed on a packed sequence."""
    trace = error.__traceback__
    while trace is not None:
        known = trace.tb_frame.f_locals
        if isinstance(known.get("self"), nn.RNNBase) and known.get("batch_sizes") is not None:
            return True
        trace = trace.tb_next
    return False


def _trace(model: nn.Module, args: Any, kwargs: Any, sizes_vary: bool) -> torch.export.ExportedProgram:
    """Export with every size of the inputs free to change, or only the first dimension's."""
    try:
        return _export(model, args, kwargs, dims=None if sizes_vary else 1)
    except Exception as error:
        if not sizes_vary or _DATA_DEPENDENT in str(error):
            raise
        # The algebra of sizes may be too much for the tracer (some strides on some sizes): vary the batch alone, and
        # derive anew for other sizes.
        return _export(model, args, kwargs, dims=1)


def _export(model: nn.Module, args: Any, kwargs: Any, *, dims: int | None) -> torch.export.ExportedProgram:
    """Export with the first ``dims`` dimensions of every input (None: all) free to change."""
    shapes = torch.export.ShapesCollection()
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            # A size of 1 is always traced as a constant; to ask for more is only answered by a warning.
            free = [size > 1 and (dims is None or d < dims) for d, size in enumerate(leaf.shape)]
            shapes[leaf] = {d: Dim.AUTO if f else Dim.STATIC for d, f in enumerate(free)}
    with warnings.catch_warnings():
        # An RNN puts its own parameters into a list at every call; an attribute may hold an activation.
        warnings.filterwarnings("ignore", r"The tensor attributes self\.\S*_flat_weights", UserWarning)
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        with stood_in_for(model, device_of((args, kwargs))):
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]


def check_devices(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse an example without tensors, or on another device than the model.

    Raises:
        ArgumentError: saying which.
    """
    leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    if not leaves:
        raise ArgumentError("example_inputs holds no tensor: give a tensor, a tuple of arguments or a dict of keywords")
    places = {p.device for p in model.parameters() if not p.is_meta}
    if any(leaf.is_meta for leaf in leaves) and not places:
        raise ArgumentError(
            "the example input is on the meta device as the model's weights are: give it on the device where the model "
            "will run, e.g. torch.zeros(shape)"
        )
    if len(places) == 1:
        (place,) = places
        for leaf in leaves:
            if leaf.device != place:
                raise ArgumentError(
                    f"the example input is on {leaf.device} but the model's weights are on {place}: "
                    f"move one of them, e.g. example.to({str(place)!r})"
                )


def at_least_two(leaves: list[Any]) -> list[Any]:
    """Double a batch of one: export would take a size of 1 for a constant, and batch norm refuses it."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors or any(t.shape[0] != 1 for t in tensors):
        return leaves
    return [torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf for leaf in leaves]


@contextlib.contextmanager
def as_configured(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in a mode (its own flags if it is in it), outside of any context of the user's; put back afterwards."""
    modules = list(model.modules())
    flags = [m.training for m in modules]
    try:
        if model.training != training:
            model.train(training)
        with torch.enable_grad(), _disable_current_modes(), _no_autocast():
            yield
    finally:
        for m, flag in zip(modules, flags, strict=True):
            m.training = flag


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """No forward hook of the user's is called while it lasts; what the model's own forward installs stays."""
    saved = [(m, kind, getattr(m, kind)) for m in model.modules() for kind in HOOKS]
    try:
        for m, kind, hooks in saved:
            if hooks:
                setattr(m, kind, type(hooks)((key, hook) for key, hook in hooks.items() if of_the_forward(hook)))
        yield
    finally:
        for m, kind, hooks in saved:
            hooks.update(getattr(m, kind))
            setattr(m, kind, hooks)


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
