"""Racecar training for PyTorch: a mirrored pass with the same weights, and a penalty that keeps features reusable.

The library needs only torch. ``racecar.study`` holds the paper's experiments and needs the ``[study]`` extra.
"""

from racecar.balance import Balance, balance
from racecar.ensemble import Ensemble
from racecar.errors import (
    ArgumentError,
    ExportError,
    IrreversibleError,
    NonFiniteError,
    RacecarError,
    RuleError,
)
from racecar.explanation import Explanation
from racecar.module import Racecar
from racecar.rules import ReverseCall, register_reverse
from racecar.rules.activation import register_activation
from racecar.srip import srip

__all__ = [
    "ArgumentError",
    "Balance",
    "Ensemble",
    "Explanation",
    "ExportError",
    "IrreversibleError",
    "NonFiniteError",
    "Racecar",
    "RacecarError",
    "ReverseCall",
    "RuleError",
    "balance",
    "register_activation",
    "register_reverse",
    "srip",
]

__version__ = "0.2.0"
