"""``with`` blocks of a model's forward that switch a mode (no_grad, autocast), inlined into the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

from racecar.errors import ExportError

# The operation that runs the sub-graph of a block → how many settings of the mode it takes before the sub-graph.
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def set_grad(mode: bool) -> bool:
    """Switch autograd on or off as the model's own ``torch.no_grad`` does; the mode before, to go back to."""
    previous = torch.is_grad_enabled()
    torch.set_grad_enabled(mode)
    return previous


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operations of every ``with torch.no_grad()`` and ``torch.autocast`` where the block stands.

    torch.export makes a sub-graph of such a block; here it becomes its operations between one that enters the mode and
    one that leaves it.

    Raises:
        ExportError: the graph has sub-graphs of another kind (``torch.cond``, ``torch.while_loop``).
    """
    graph = module.graph
    for node in list(graph.nodes):
        settings = _REGIONS.get(getattr(node.target, "__name__", ""))
        if node.op != "call_function" or settings is None:
            continue
        mode, body, operands = node.args[:settings], node.args[settings], node.args[settings + 1 :]
        inner = getattr(module, body.target)
        inline_regions(inner)
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
