"""What a model's name such as ``RR^6_AB`` says: its variant, its colours, which are its method's, and its formula."""

from __future__ import annotations

from racecar.study.core.variants import Variant

PAPER = "#b03060"  # the paper's own numbers beside a study's
_WAYS = {"1pct": "1 %", "10pct": "10 %"}


def variant_of(model: str) -> Variant:
    """The variant that a model was trained as, ``RR6`` of ``"RR^6_AB"``.

    Raises:
        ValueError: the name is no model's.
    """
    return Variant.parse(model.partition("_")[0])


def color_of(model: str) -> str:
    """A model's colour in figures, that of its method."""
    return variant_of(model).method.color


def math_title(model: str) -> str:
    """A model's name, or a variant's such as ``RR^6``, as a formula for matplotlib; a way (``AB-probe``) follows it."""
    name, _, phase = model.partition("_")
    name, _, savings = name.partition("-")
    base, _, depth = name.partition("^")
    path, _, way = phase.partition("-")
    power = f"^{{{depth}}}" if depth else ""
    subscript = f"_{{{path}}}" if path else ""
    added = [w for w in (savings.replace("-", ", "), _WAYS.get(way, way)) if w]
    return " ".join([rf"$\mathrm{{{base}}}{power}{subscript}$", *added])
