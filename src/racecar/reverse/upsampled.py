"""A pooling undone and the adjoint of the convolution before it as one operation, which needs fewer sums."""

from __future__ import annotations

from torch import fx

from racecar.rules.convolution import conv_adjoint, upsampled_adjoint
from racecar.rules.pooling import resize2d, resize_first2d


def merge_upsampling(graph: fx.Graph) -> None:
    """Let adjoints read what was not upsampled yet, in place.

    Only where nothing else reads the upsampled estimate, and all of it is known. The rules that a user has registered
    instead of the library's are left as they are.
    """
    for node in graph.find_nodes(op="call_function", target=conv_adjoint):
        estimate, *arguments = node.args
        small = _before(estimate)
        if small is None or node.kwargs["context"].known[0] is not None:
            continue
        node.target = upsampled_adjoint
        node.args = (small, estimate.args[1], *arguments)


def _before(estimate: fx.Node) -> fx.Node | None:
    """What was upsampled by the reverse of a pooling, for one reader alone; None where it was not."""
    if len(estimate.users) != 1:
        return None
    if estimate.target is resize2d:
        return estimate.args[0]  # type: ignore[return-value]
    return estimate.args[0][0] if estimate.target is resize_first2d else None  # type: ignore[index,return-value]
