"""Reverse rules: one file per family of operations, each rule in full view. Importing this registers them all."""

from racecar.rules import (
    activation,
    arithmetic,
    attention,
    convolution,
    einsum,
    identity,
    linear,
    normalization,
    pooling,
    recurrent,
    shape,
)
from racecar.rules.registry import ReverseCall, Rule, find_rule, register_reverse, unchanged

__all__ = [
    "ReverseCall",
    "Rule",
    "activation",
    "arithmetic",
    "attention",
    "convolution",
    "einsum",
    "find_rule",
    "identity",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "register_reverse",
    "shape",
    "unchanged",
]
