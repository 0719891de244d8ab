"""What a model's name such as ``RR^6_AB`` says: its variant, its colours, which are its method's, and its formula."""

from __future__ import annotations

from racecar.study.core.variants import Variant

PAPER = "#000000"  # the paper's own numbers beside a study's, which have colours
SCRATCH = "#767676"  # trained on task B alone
_WAYS = {"1pct": "1 %", "10pct": "10 %"}


def variant_of(model: str) -> Variant:
    """The variant that a model was trained as, ``RR6`` of ``"RR^6_AB"``.

    Raises:
        ValueError: the name is no model's.
    """
    return Variant.parse(model.partition("_")[0])


def color_of(model: str) -> str:
    """The colour of a model, or of a variant by its name, in figures and tables: its method's, paler for fewer layers.

    Models that were trained on task B from scratch have a colour of their own. Of the colours of Std, Ort, RR^s and
    Dec^s no two look alike to the colour-blind; the others have their own lines too, see :class:`Method`.
    """
    if model.partition("_")[2].startswith("B"):
        return SCRATCH
    method = variant_of(model).method
    white = 0.36 / method.depth if method.depth else 0.0
    return "#" + "".join(
        f"{round(int(method.color[i : i + 2], 16) * (1 - white) + 255 * white):02x}" for i in (1, 3, 5)
    )


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
