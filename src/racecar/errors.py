"""Errors that racecar raises on purpose. Each message says what was wrong, where, and what to do."""


class RacecarError(Exception):
    """Base of all errors below: ``except racecar.RacecarError`` catches them together."""


class ExportError(RacecarError):
    """``torch.export`` could not turn the model into a graph for the given example."""


class IrreversibleError(RacecarError):
    """The reverse pass meets operations that have no reverse rule; lists all of them with module paths."""


class RuleError(RacecarError):
    """A reverse rule failed or returned an estimate of the wrong shape; names the node."""


class NonFiniteError(RacecarError):
    """The racecar penalty became infinite or NaN during training; names the layers."""


class ArgumentError(RacecarError, ValueError):
    """An argument of :class:`racecar.Racecar` does not fit the model."""
