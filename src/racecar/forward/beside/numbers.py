"""Numbers among a call's arguments, such as a temperature or a fade-in's α: inputs of the graph, no constants of it.

A floating-point number is traced as a tensor without dimensions, which mixes with others as the number does. Where a
forward needs the number itself (a comparison, a probability of dropout) it is a constant, and another value is another
program.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import torch


def numbers_in(leaves: Sequence[Any]) -> frozenset[int]:
    """The positions of floating-point numbers among flat arguments."""
    return frozenset(i for i, leaf in enumerate(leaves) if type(leaf) is float)


def as_tensors(leaves: Sequence[Any], numbers: Set[int]) -> list[Any]:
    """The same arguments with the numbers at some positions as tensors."""
    return [torch.tensor(leaf, dtype=torch.float64) if i in numbers else leaf for i, leaf in enumerate(leaves)]
