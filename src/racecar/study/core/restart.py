"""How phase II begins from phase I's weights: as they are, with the last layers drawn anew, or shrunk and perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

WAYS = ("keep", "head", "two", "shrink")
DRAWN = {"keep": 0, "head": 1, "two": 2}  # layers at the end that are drawn anew
SHRINK, PERTURB = 0.5, 0.5  # of shrink-and-perturb: what is kept of the weights, what is added of fresh ones
FRESH = 20_000  # added to a run's seed: its fresh weights are those of no run's phase I


def restart(
    weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor], how: str, layers: Sequence[str]
) -> dict[str, Tensor]:
    """The weights with which phase II begins; those that are kept are not copied.

    Args:
        weights: phase I's parameters by name, no buffers.
        fresh: of the same network, initialised by a seed of its own (see :data:`FRESH`).
        how: ``"keep"``; ``"head"`` or ``"two"``: the last layer, or the last two, are the fresh network's;
            ``"shrink"``: θ ← 0.5·θ + 0.5·θ_fresh for all weights and biases (shrink-and-perturb, Ash & Adams 2020,
            "On Warm-Starting Neural Network Training").
        layers: names of the modules that hold weights, in the order of the forward pass, e.g. ``["fc1", "fc2"]``.

    Raises:
        ValueError: no such way, weights of two different networks, something that is no weight, or a layer to be drawn
            anew that has none.
    """
    if how not in WAYS:
        raise ValueError(f"phase II cannot begin by {how!r}: use {', '.join(WAYS)}")
    shapes, others = ({k: tuple(v.shape) for k, v in given.items()} for given in (weights, fresh))
    if differing := sorted(k for k in shapes.keys() | others.keys() if shapes.get(k) != others.get(k)):
        raise ValueError(f"weights and fresh are of two networks, they differ in {', '.join(differing)}")
    if counts := [k for k, v in weights.items() if not v.is_floating_point()]:
        raise ValueError(f"{', '.join(counts)}: counts are no weights; give parameters alone, without buffers")
    if how == "shrink":
        return {k: SHRINK * v + PERTURB * fresh[k] for k, v in weights.items()}
    if len(layers) < DRAWN[how]:
        raise ValueError(f"{how!r} draws {DRAWN[how]} layers anew, the network has {len(layers)}: {', '.join(layers)}")
    anew = set()
    for layer in layers[len(layers) - DRAWN[how] :]:
        own = {k for k in weights if k.startswith(f"{layer}.")}
        if not own:
            raise ValueError(f"no weights of {layer!r}, which is to be drawn anew, among {', '.join(weights)}")
        anew |= own
    return {k: fresh[k] if k in anew else v for k, v in weights.items()}
