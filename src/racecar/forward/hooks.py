"""The user's forward hooks, called where the module was called: the graph itself runs no module.

Hooks by which a library reads values within its own forward are part of that: they are traced with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from racecar.errors import ArgumentError
from racecar.forward.graph import ForwardGraph, modules_around

_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
HOOKS = ("_forward_hooks", "_forward_pre_hooks")

# Where libraries define hooks that keep a value for the rest of the same forward (Hugging Face: hidden states), and
# install them in it, once they are asked for; outside of it they do nothing.
_OF_THE_FORWARD = frozenset({"transformers.utils.output_capturing"})


_OF_FSDP = "torch.distributed.fsdp."  # they gather the module's weights, as the program does for itself


def of_the_forward(hook: Callable[..., Any]) -> bool:
    """Whether a hook is part of its model's forward, and none of the user's."""
    return getattr(hook, "__module__", None) in _OF_THE_FORWARD


def users_hooks(module: nn.Module, kind: str) -> list[tuple[int, Callable[..., Any]]]:
    """(key, hook) of a user's hooks of one of the :data:`HOOKS` kinds."""
    return [
        (key, hook)
        for key, hook in getattr(module, kind).items()
        if not of_the_forward(hook) and not str(getattr(hook, "__module__", "")).startswith(_OF_FSDP)
    ]


def hooked_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with forward hooks, by path.

    Raises:
        ArgumentError: hooks that a graph cannot run.
    """
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
        if any(users_hooks(module, kind) for kind in HOOKS):
            if isinstance(module, nn.RNNBase | nn.LSTMCell):
                raise ArgumentError(
                    f"module {name or type(module).__name__!r} has forward hooks and returns several tensors, with "
                    "which the exported graph cannot call them: remove the hook or hook a neighbouring module"
                )
            hooked[name] = module
    return hooked


class _Hooks(nn.Module):
    """Runs a module's forward (pre-)hooks as ``Module.__call__`` does, around operations of the graph."""

    def __init__(self, module: nn.Module, kind: str) -> None:
        super().__init__()
        self.kind = kind
        object.__setattr__(self, "module", module)  # not a child: the graph owns no weights

    def forward(self, inputs: Tensor, output: Tensor | None = None) -> Tensor:
        module: nn.Module = self.__dict__["module"]
        if self.kind == "pre":
            for key, hook in users_hooks(module, "_forward_pre_hooks"):
                extra: tuple[Any, ...] = ({},) if key in module._forward_pre_hooks_with_kwargs else ()
                result = hook(module, (inputs,), *extra)
                if result is not None:
                    result = result[0] if extra else result
                    inputs = result[0] if isinstance(result, tuple) else result
            return inputs
        assert output is not None
        for key, hook in users_hooks(module, "_forward_hooks"):
            extra = ({},) if key in module._forward_hooks_with_kwargs else ()
            result = hook(module, (inputs,), *extra, output)
            if result is not None:
                output = result
        return output


def keep_hooks(forward: ForwardGraph, hooked: Mapping[str, nn.Module]) -> None:
    """Call the user's forward hooks where the module was called: the graph itself runs no module."""
    graph = forward.graph
    # Outer modules come before those inside, so that their hooks run around those of the inner ones.
    calls: dict[str, tuple[str, list[fx.Node]]] = {}
    if "" in hooked:
        calls["<root>"] = ("", [n for n in graph.nodes if n.op == "call_function"])
    for node in graph.nodes:
        for key, path in modules_around(node):
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
