"""How saturated the last layer's tanh units are: what is left of a gradient on its way into the network."""

from __future__ import annotations

from torch import Tensor

SATURATED = 0.99  # an output beyond it, on either side, counts as saturated


def saturation(outputs: Tensor) -> dict[str, Tensor]:
    """Of tanh outputs [runs, patterns, units], over patterns and units, each [runs], float64.

    Returns:
        ``"saturated"``, the share of outputs with |y| > 0.99, and ``"slope"``, the mean of tanh' = 1 − y², the factor
        that the last layer's tanh puts before every gradient.
    """
    y = outputs.double()
    return {"saturated": (y.abs() > SATURATED).double().mean((-2, -1)), "slope": (1 - y.square()).mean((-2, -1))}
