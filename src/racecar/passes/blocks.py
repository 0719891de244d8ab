"""Where a program's forward pass is cut in blocks: at few live values, from which a block can be computed again.

With ``checkpoint="both"`` what is live at a cut stays in memory; what is inside a block comes and goes. Blocks lie
in groups: the cuts between groups are kept for the whole step, those inside one while it is at work. The division
is the one whose estimated peak is least; a cut in the residual stream of a transformer costs one value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.utils._pytree as pytree
from torch import Tensor, fx

from racecar.forward.graph import shares_memory
from racecar.reverse.size_only import size_of

_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # of blocks to try
_WORK = 4  # bytes at work in a block per byte of what its forward operations give
_FLAT = 1.1  # groups of several blocks take more time: only where they save a tenth of the peak


@dataclass(frozen=True)
class Division:
    """Blocks of a forward pass.

    Attributes:
        blocks: their operations, in order.
        groups: the numbers of the blocks of each group, in order.
    """

    blocks: list[list[fx.Node]]
    groups: list[range]


def is_light(node: fx.Node) -> bool:
    """Whether a value takes no memory: a size, a number, a stand-in of a size."""
    return node.target is size_of or not any(isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta["example"]))


def divide_forward(order: Sequence[fx.Node], outside: Sequence[fx.Node]) -> Division:
    """Choose blocks and groups.

    Args:
        order: the operations of the forward pass that may be computed again, without those of which ``is_light`` holds.
        outside: those that may not, as they have effects: a group ends before one that reads from it.
    """
    position = {node: i for i, node in enumerate(order)}
    live, forced = _live(order, position), _forced(order, position, outside)
    inside = [0 if shares_memory(node) else _bytes(node) for node in order]
    total = list(itertools.accumulate(inside, initial=0))
    best: tuple[float, list[int], list[range]] | None = None
    for count in _COUNTS:
        cuts = _cuts(live, total, forced, total[-1] / count)
        work = max(total[b] - total[a] for a, b in itertools.pairwise([0, *cuts, len(order)]))
        for size in range(1, math.isqrt(len(cuts) + 1) * 2 + 1):
            groups = _groups(cuts, forced, size)
            peak = _peak([live[cut - 1] for cut in cuts], groups, work) * (_FLAT if size > 1 else 1)
            if best is None or peak < best[0]:
                best = peak, cuts, groups
    assert best is not None
    _, cuts, groups = best
    return Division([list(order[a:b]) for a, b in itertools.pairwise([0, *cuts, len(order)])], groups)


def _groups(cuts: Sequence[int], forced: Sequence[int], size: int) -> list[range]:
    """Groups of so many blocks, fewer before a cut that is forced."""
    groups, first = [], 0
    for block, end in enumerate([*cuts, None]):
        if end is None or end in forced or block + 1 - first == size:
            groups.append(range(first, block + 1))
            first = block + 1
    return groups


def _bytes(node: fx.Node) -> int:
    tensors = (v for v in pytree.tree_leaves(node.meta["example"]) if isinstance(v, Tensor))
    return sum(t.numel() * t.element_size() for t in tensors)


def _live(order: Sequence[fx.Node], position: dict[fx.Node, int]) -> list[float]:
    """After each operation the bytes of what was computed before and is read later; infinite where that is a list."""
    changes: list[float] = [0.0] * (len(order) + 1)
    lists = [0] * (len(order) + 1)
    for i, node in enumerate(order):
        readers = [position[u] for u in node.users if u in position]
        if not readers:
            continue
        changes[i] += _bytes(node)
        changes[max(readers)] -= _bytes(node)
        if not isinstance(node.meta["example"], Tensor):
            lists[i] += 1
            lists[max(readers)] -= 1
    bytes_, open_lists = itertools.accumulate(changes[:-1]), itertools.accumulate(lists[:-1])
    return [math.inf if open_ else value for value, open_ in zip(bytes_, open_lists, strict=True)]


def _forced(order: Sequence[fx.Node], position: dict[fx.Node, int], outside: Sequence[fx.Node]) -> list[int]:
    """Where a group has to end, as what comes then reads from it and stays outside."""
    reads = ([position[n] for n in node.all_input_nodes if n in position] for node in outside)
    return sorted({max(read) + 1 for read in reads if read} - {len(order)})


def _cuts(live: Sequence[float], total: Sequence[int], forced: Sequence[int], most: float) -> list[int]:
    """Numbers of the operations before which a block begins; in a block at most ``most`` bytes, if that can be."""
    cuts: list[int] = []
    for end in (*forced, len(live)):
        start = cuts[-1] if cuts else 0
        while total[end] - total[start] > most * 1.01:
            places = [
                cut
                for cut in range(start + 1, end)
                if live[cut - 1] < math.inf and most / 2 <= total[cut] - total[start] <= most * 1.01
            ] or [cut for cut in range(start + 1, end) if live[cut - 1] < math.inf and total[cut] > total[start]][:1]
            if not places:
                break
            start = min(reversed(places), key=lambda cut: live[cut - 1])
            cuts.append(start)
        if end < len(live):
            cuts.append(end)
    return sorted(set(cuts))


def _peak(live: Sequence[float], groups: Sequence[range], work: float) -> float:
    """Bytes: both passes keep the cuts between groups, then those inside one, and work in one block."""
    between = sum(live[group[-1]] for group in groups[:-1])
    return 2 * between + 2 * max(sum(live[b] for b in group[:-1]) for group in groups) + _WORK * work
