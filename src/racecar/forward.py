"""From a model and an example to a clean forward graph: export, weights as inputs, nothing in place, hooks kept.

The graph is a plain ``torch.fx`` graph of ATen operations. Its inputs are the model's parameters and buffers, looked
up by name at every call, then the flattened example inputs; it holds no tensor of its own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.export import Dim
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import _disable_current_modes

from racecar.errors import ArgumentError, ExportError
from racecar.recurrent import one_operation_per_layer
from racecar.rules.activation import softsign, tanhshrink

aten = torch.ops.aten


class Shapes:
    """What the model's Python code asked of its inputs' shapes while it was traced (``if x.shape[-1] > 8``)."""

    def __init__(self, values: list[Any]) -> None:
        dims: list[list[Any]] = [list(value.shape) if isinstance(value, Tensor) else [] for value in values]
        symbolic: list[Any] = [d.node for sizes in dims for d in sizes if isinstance(d, torch.SymInt)]
        self.guards = [g.expr for g in symbolic[0].shape_env.guards] if symbolic else []
        self.dims = [
            [d.node.expr if isinstance(d, torch.SymInt) else sympy.Integer(d) for d in sizes] for sizes in dims
        ]

    def batch_varies(self, leaves: list[Any]) -> list[bool]:
        """Per tensor with sizes whether the first may change: not if the model loops over it, as over time steps."""
        shaped = zip(self.dims, leaves, strict=True)
        return [bool(dims and dims[0].free_symbols) for dims, leaf in shaped if isinstance(leaf, Tensor) and leaf.ndim]

    def allow(self, leaves: list[Any]) -> bool:
        """Whether flattened inputs of these shapes would have been traced to the same graph."""
        known: dict[Any, Any] = {}
        for dims, leaf in zip(self.dims, leaves, strict=True):
            sizes = leaf.shape if isinstance(leaf, Tensor) else ()
            if len(sizes) != len(dims):
                return False
            for dim, size in zip(dims, sizes, strict=True):
                if dim.is_Symbol and dim not in known:
                    known[dim] = sympy.Integer(size)
                elif dim.xreplace(known) != size:
                    return False
        # A guard on a symbol that is no dimension of its own is one of the fixed dimensions compared above.
        return all(g.xreplace(known) for g in self.guards if g.free_symbols <= known.keys())


@dataclass
class ForwardGraph:
    """The exported forward pass.

    Attributes:
        graph: placeholders are ``weights`` then ``inputs``; the output is the flat tuple of the model's outputs.
        weights: for each weight placeholder the qualified name in the model.
        constants: tensors written literally in the model's forward, by placeholder position after the weights.
        inputs: placeholders of the flattened user inputs.
        in_spec / out_spec: how inputs and outputs nest.
        shapes: which other shapes of the inputs take the same path through the model's Python code.
        data: values that change with the network's input.
        coefficients: of a product of two activations the position of the one that is not estimated.
        averages: products whose coefficient is attention weights.
        pointwise: the last operation of a norm or activation spelled out → the value that it is a function of.
    """

    graph: fx.Graph
    weights: list[str]
    constants: list[Tensor]
    weight_nodes: list[fx.Node]
    inputs: list[fx.Node]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    outputs: list[Any]
    shapes: Shapes
    data: set[fx.Node] = field(default_factory=set)
    coefficients: dict[fx.Node, int] = field(default_factory=dict)
    averages: set[fx.Node] = field(default_factory=set)
    pointwise: dict[fx.Node, fx.Node] = field(default_factory=dict)
    root: nn.Module = field(default_factory=nn.Module)

    def depends_on_input(self, value: object) -> bool:
        """Whether a graph value changes with the network's input."""
        return isinstance(value, fx.Node) and value in self.data


def module_path(node: fx.Node) -> str:
    """The module whose forward called the operation, e.g. ``"layer1.0.conv2"``; "" for the model itself."""
    stack = _stack(node)
    return stack[-1][1] if stack else ""


def call_key(node: fx.Node) -> str:
    """Like :func:`module_path`, but different for every call of a module that is used several times."""
    stack = _stack(node)
    return stack[-1][0] if stack else ""


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    """(call, path) of every module around the operation, outermost first, without the model itself."""
    entries = (node.meta.get("nn_module_stack") or {}).items()
    return [
        (key, value[0])
        for key, value in entries
        if isinstance(value, tuple) and value[0] and not key.startswith("_empty")
    ]


def nodes_in(value: Any) -> list[fx.Node]:
    """Every node in a nest of arguments, repeated ones repeated."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(value, note)
    return found


def tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """The tensor arguments in the order of the call, repeated ones repeated."""
    found = nodes_in((node.args, node.kwargs))
    return [n for n in found if isinstance(n.meta.get("example"), Tensor | list | tuple)]


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
    hooked = _hooked_modules(model)
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
    _out_of_place(forward)
    _fold_activations(forward.graph)
    one_operation_per_layer(forward)
    forward.data = _data_nodes(forward)
    _keep_hooks(forward, hooked)
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


_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def _hooked_modules(model: nn.Module) -> dict[str, nn.Module]:
    hooked = {}
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _WEIGHT_HOOKS):
                raise ArgumentError(
                    f"module {name or type(module).__name__!r} computes its weight in a hook ({type(hook).__name__} of "
                    "torch.nn.utils), which the exported graph cannot run: use torch.nn.utils.parametrizations for "
                    "weight_norm and spectral_norm, and torch.nn.utils.prune.remove after pruning"
                )
        if module._backward_hooks or module._backward_pre_hooks:
            raise ArgumentError(
                f"module {name or type(module).__name__!r} has backward hooks, which the exported graph cannot run: "
                "remove them, or hook its parameters (Tensor.register_hook) instead"
            )
        if any(getattr(module, kind) for kind in _HOOKS):
            if isinstance(module, nn.RNNBase | nn.LSTMCell):
                raise ArgumentError(
                    f"module {name or type(module).__name__!r} has forward hooks and returns several tensors, with "
                    "which the exported graph cannot call them: remove the hook or hook a neighbouring module"
                )
            hooked[name] = module
    return hooked


@contextlib.contextmanager
def _pristine(model: nn.Module, training: bool) -> Iterator[None]:
    """Export without hooks and outside of any user context, and put everything back."""
    modules = list(model.modules())
    flags = [m.training for m in modules]
    saved = [(m, kind, getattr(m, kind)) for m in modules for kind in _HOOKS]
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
        Shapes([node.meta.get("val") for node in inputs]),
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


def _schema(node: fx.Node) -> torch._C.FunctionSchema | None:
    return node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None


def _is_view(node: fx.Node) -> bool:
    schema = _schema(node)
    return bool(schema and any(r.alias_info and not r.alias_info.is_write for r in schema.returns))


def _out_of_place(forward: ForwardGraph) -> None:
    """Replace ``relu_`` by ``relu`` and so on: L_m must survive until it is compared. Buffers keep their updates."""
    state, data = set(forward.weight_nodes), _data_nodes(forward)
    order = {node: i for i, node in enumerate(forward.graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}  # whose memory a view shows
    shown: dict[fx.Node, list[fx.Node]] = {}
    for node in list(forward.graph.nodes):
        schema = _schema(node)
        first = node.args[0] if node.args else None
        if schema is None or not isinstance(first, fx.Node):
            continue
        if _is_view(node):
            owner[node] = owner.get(first, first)
            shown.setdefault(owner[node], []).append(node)
        base = owner.get(first, first)
        if not schema.is_mutable or base in state or base not in data:
            continue  # memory that the model has just made, such as a mask, is compared with nothing
        name, overload = str(node.target).removeprefix("aten.").rsplit(".", 1)
        if not name.endswith("_"):
            continue  # e.g. batch_norm: declared or not, it changes buffers only
        # Of the changed tensor itself the exported graph goes on with the result.
        later = [u for v in (base, *shown.get(base, ())) for u in v.users if order[u] > order[node]]
        if later:
            raise ExportError(
                f"{node.target} at {module_path(node) or 'the model'} changes a view in place and the change is read "
                f"through another tensor by {later[0].target}: write it without the in-place operation"
            )
        if node.target is aten.bernoulli_.float:
            node.target = aten.bernoulli.p
            if len(node.args) == 1 and "p" not in node.kwargs:  # of the in-place form 0.5 is the default
                node.args = (first, 0.5)
            continue
        packet = getattr(aten, name[:-1], None)
        if packet is None or overload not in packet.overloads():
            raise ExportError(f"no out-of-place form of {node.target} at {module_path(node) or 'the model'}")
        node.target = getattr(packet, overload)


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


_CREATORS = ("new_empty", "new_full", "new_ones", "new_zeros", "empty_like", "full_like", "ones_like", "zeros_like")


def _creates(node: fx.Node) -> bool:
    """Whether an operation reads of its argument nothing but shape, dtype and device."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name in (*_CREATORS, "rand_like", "randn_like", "randint_like")


def _data_nodes(forward: ForwardGraph) -> set[fx.Node]:
    """Values that change with the user's input; sizes and other numbers read off it are not data."""
    data = set(forward.inputs)
    for node in forward.graph.nodes:
        is_tensor = isinstance(node.meta.get("val"), Tensor | list | tuple)
        if node.op != "call_function" or not is_tensor or _creates(node):
            continue
        if any(a in data for a in node.all_input_nodes):
            data.add(node)
    return data


class _Hooks(nn.Module):
    """Runs a module's forward (pre-)hooks as ``Module.__call__`` does, around operations of the graph."""

    def __init__(self, module: nn.Module, kind: str) -> None:
        super().__init__()
        self.kind = kind
        object.__setattr__(self, "module", module)  # not a child: the graph owns no weights

    def forward(self, inputs: Tensor, output: Tensor | None = None) -> Tensor:
        module: nn.Module = self.__dict__["module"]
        if self.kind == "pre":
            for key, hook in list(module._forward_pre_hooks.items()):
                extra: tuple[Any, ...] = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
                result = hook(module, (inputs,), *extra)
                if result is not None:
                    result = result[0] if extra else result
                    inputs = result[0] if isinstance(result, tuple) else result
            return inputs
        assert output is not None
        for key, hook in list(module._forward_hooks.items()):
            extra = ({},) if key in module._forward_hooks_with_kwargs else ()
            result = hook(module, (inputs,), *extra, output)
            if result is not None:
                output = result
        return output


def _keep_hooks(forward: ForwardGraph, hooked: Mapping[str, nn.Module]) -> None:
    """Call the user's forward hooks where the module was called: the graph itself runs no module."""
    graph = forward.graph
    # Outer modules come before those inside, so that their hooks run around those of the inner ones.
    calls: dict[str, tuple[str, list[fx.Node]]] = {}
    if "" in hooked:
        calls["<root>"] = ("", [n for n in graph.nodes if n.op == "call_function"])
    for node in graph.nodes:
        for key, path in _stack(node):
            calls.setdefault(key, (path, []))[1].append(node)
    root = forward.root
    seen = set()
    for number, (path, nodes) in enumerate(calls.values()):
        if path not in hooked:
            continue
        seen.add(path)
        inside = set(nodes)
        entering = list(
            dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a in forward.data and a not in inside)
        )
        leaving = [n for n in nodes if n in forward.data and any(u not in inside for u in n.users)]
        if len(entering) != 1 or len(leaving) != 1:
            raise ArgumentError(
                f"module {path or 'the model'!r} has forward hooks and {len(entering)} input and {len(leaving)} output "
                "tensors; racecar keeps hooks of modules with one of each: remove the hook or hook a module inside"
            )
        module, source, result = hooked[path], entering[0], leaving[0]
        if module._forward_pre_hooks:
            root.add_module(f"hooks_{number}_pre", _Hooks(module, "pre"))
            with graph.inserting_before(nodes[0]):
                changed = graph.call_module(f"hooks_{number}_pre", (source,))
            for n in nodes:
                n.replace_input_with(source, changed)
            forward.data.add(changed)
            source = changed
        if module._forward_hooks:
            root.add_module(f"hooks_{number}_post", _Hooks(module, "post"))
            users = [u for u in result.users if u not in inside]
            with graph.inserting_after(result):
                changed = graph.call_module(f"hooks_{number}_post", (source, result))
            for u in users:
                u.replace_input_with(result, changed)
            forward.outputs = [changed if o is result else o for o in forward.outputs]
            forward.data.add(changed)
    if missing := sorted(set(hooked) - seen):
        raise ArgumentError(
            f"module {missing[0] or 'the model'!r} has forward hooks but no operation of its own in the exported "
            "graph, so they would never run: remove the hook or hook a neighbouring module"
        )
