"""From a model and an example to a clean forward graph: export, weights as inputs, nothing in place, hooks kept."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.export import Dim
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._python_dispatch import _disable_current_modes

from racecar.errors import ArgumentError, ExportError
from racecar.forward.graph import ForwardGraph, Shapes, data_nodes, symbolic
from racecar.forward.hooks import HOOKS, hooked_modules, keep_hooks
from racecar.forward.in_place import out_of_place
from racecar.forward.recurrent import one_operation_per_layer
from racecar.rules.activation import softsign, tanhshrink

aten = torch.ops.aten


def export_forward(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool, sizes_vary: bool = False
) -> ForwardGraph:
    """Export ``model`` as it is configured now (every submodule in its own mode) and clean the graph.

    The batch may vary; other sizes too if ``sizes_vary``, which can take the tracer far longer.

    The model is left as it was: hooks, modes, buffers, random state.

    Raises:
        ArgumentError: the example and the model are on different devices, or the example holds no tensor.
        ExportError: ``torch.export`` refuses the model.
    """
    _check_devices(model, args, kwargs)
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach(), (args, dict(kwargs)))
    hooked = hooked_modules(model)
    with _pristine(model, training):
        try:
            try:
                program = _trace(model, args, kwargs, dims=None if sizes_vary else 1)
            except Exception as error:
                if not sizes_vary or _DATA_DEPENDENT in str(error):
                    raise
                # The algebra of sizes may be too much for the tracer (some strides on some sizes): vary the batch
                # alone, and derive anew for other sizes.
                program = _trace(model, args, kwargs, dims=1)
        except Exception as error:
            sizes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            hint = (
                "The forward branches on the values of a tensor, which a graph cannot do: use torch.where, or move the "
                "branch out of the model."
                if _DATA_DEPENDENT in str(error)
                else "A recurrent layer meets a packed sequence, which racecar cannot mirror: give it the padded one."
                if _meets_packed(error)
                else "Check that the model itself runs on such inputs; racecar needs a forward that "
                "torch.export(strict=False) can trace."
            )
            raise ExportError(
                f"torch.export could not trace {type(model).__name__} with inputs of shape {sizes}: {reason}\n"
                f"{hint} The whole reason is above, as this error's cause."
            ) from error
    forward = _lift(program)
    _drop_checks(forward.graph)
    out_of_place(forward)
    _fold_activations(forward.graph)
    one_operation_per_layer(forward)
    forward.data = data_nodes(forward)
    keep_hooks(forward, hooked)
    forward.graph.lint()
    return forward


_DATA_DEPENDENT = "data-dependent"


def _meets_packed(error: BaseException) -> bool:
    """Whether a recurrent module has failed on a packed sequence."""
    trace = error.__traceback__
    while trace is not None:
        known = trace.tb_frame.f_locals
        if isinstance(known.get("self"), nn.RNNBase) and known.get("batch_sizes") is not None:
            return True
        trace = trace.tb_next
    return False


def _trace(model: nn.Module, args: Any, kwargs: Any, *, dims: int | None) -> torch.export.ExportedProgram:
    """Export with the first ``dims`` dimensions of every input (None: all) free to change."""
    shapes = torch.export.ShapesCollection()
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            # A size of 1 is always traced as a constant; to ask for more is only answered by a warning.
            free = [size > 1 and (dims is None or d < dims) for d, size in enumerate(leaf.shape)]
            shapes[leaf] = {d: Dim.AUTO if f else Dim.STATIC for d, f in enumerate(free)}
    with warnings.catch_warnings():
        # An RNN puts its own parameters into a list at every call.
        warnings.filterwarnings("ignore", r"The tensor attributes self\.\S*_flat_weights", UserWarning)
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]


def _check_devices(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    if not leaves:
        raise ArgumentError("example_inputs holds no tensor: give a tensor, a tuple of arguments or a dict of keywords")
    places = {p.device for p in model.parameters()}
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
def _pristine(model: nn.Module, training: bool) -> Iterator[None]:
    """Export without hooks and outside of any user context, and put everything back."""
    modules = list(model.modules())
    flags = [m.training for m in modules]
    saved = [(m, kind, getattr(m, kind)) for m in modules for kind in HOOKS]
    try:
        for m, kind, hooks in saved:
            if hooks:
                setattr(m, kind, type(hooks)())
        if model.training != training:
            model.train(training)
        with torch.enable_grad(), _disable_current_modes(), _no_autocast():
            yield
    finally:
        for m, kind, hooks in saved:
            setattr(m, kind, hooks)
        for m, flag in zip(modules, flags, strict=True):
            m.training = flag


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _lift(program: torch.export.ExportedProgram) -> ForwardGraph:
    """Split the lifted graph's placeholders into weights, literal constants and user inputs."""
    _inline_regions(program.graph_module)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(program.graph_module.graph, copies)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    weights, weight_nodes, constants, constant_nodes, inputs = [], [], [], [], []
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            weights.append(str(spec.target))
            weight_nodes.append(node)
        elif spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants.append(program.constants[str(spec.target)])
            constant_nodes.append(node)
        else:
            raise ExportError(
                f"the model passes a {spec.kind.name.lower()} ({spec.target}) to its operations, which racecar "
                "cannot mirror"
            )
    graph.output(output)
    outputs = list(pytree.tree_leaves(output, is_leaf=lambda v: v is None))
    for i, spec in enumerate(program.graph_signature.output_specs):
        if isinstance(spec.arg, ConstantArgument):
            outputs[i] = spec.arg.value
    return ForwardGraph(
        graph,
        weights,
        constants,
        weight_nodes + constant_nodes,
        inputs,
        program.call_spec.in_spec,
        program.call_spec.out_spec,
        outputs,
        Shapes([symbolic(node) for node in inputs]),
    )


def set_grad(mode: bool) -> bool:
    """Switch autograd on or off as the model's own ``torch.no_grad`` does; the mode before, to go back to."""
    previous = torch.is_grad_enabled()
    torch.set_grad_enabled(mode)
    return previous


_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def _inline_regions(module: fx.GraphModule) -> None:
    """Export makes a sub-graph of every ``with torch.no_grad()`` and ``torch.autocast`` in a forward: undo that."""
    graph = module.graph
    for node in list(graph.nodes):
        settings = _REGIONS.get(getattr(node.target, "__name__", ""))
        if node.op != "call_function" or settings is None:
            continue
        mode, body, operands = node.args[:settings], node.args[settings], node.args[settings + 1 :]
        inner = getattr(module, body.target)
        _inline_regions(inner)
        places = [n for n in inner.graph.nodes if n.op == "placeholder"]
        copies = dict(zip(places, operands, strict=True))
        enter, leave = (set_grad, set_grad) if settings == 1 else (_enter_autocast, _exit_autocast)
        with graph.inserting_before(node):
            token = graph.call_function(enter, mode)
            results: Any = graph.graph_copy(inner.graph, copies)
            graph.call_function(leave, (token,))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])  # every user is a getitem
            graph.erase_node(user)
        graph.erase_node(node)
        if not body.users:
            graph.erase_node(body)
    for node in graph.nodes:
        if node.op == "get_attr":
            users = ", ".join(str(u.target) for u in node.users)
            raise ExportError(
                f"the model's forward holds a graph of its own ({users}), which racecar cannot mirror: write it "
                "without torch.cond, torch.while_loop and the like"
            )


def _drop_checks(graph: fx.Graph) -> None:
    """Remove assertions on shapes and dtypes: they hold for the example only."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and "_assert" in str(node.target):
            graph.erase_node(node)


def _fold_activations(graph: fx.Graph) -> None:
    """Fold softsign and tanhshrink, which torch.nn.functional spells out, back to one operation."""
    for node in list(graph.nodes):
        first = node.args[0] if node.args else None
        other = node.args[1] if len(node.args) > 1 else None
        if not (isinstance(first, fx.Node) and isinstance(other, fx.Node)):
            continue
        if node.target is aten.div.Tensor and other.target is aten.add.Tensor and other.args[1] == 1:
            inner = other.args[0]
            fold = softsign if isinstance(inner, fx.Node) and inner.target is aten.abs.default else None
        else:
            inner = other
            fold = tanhshrink if node.target is aten.sub.Tensor and other.target is aten.tanh.default else None
        if fold is None or not isinstance(inner, fx.Node) or inner.args[0] is not first:
            continue
        node.target, node.args = fold, (first,)
        for dead in (other, inner):
            if not dead.users and dead.graph is graph and not dead._erased:
                graph.erase_node(dead)
