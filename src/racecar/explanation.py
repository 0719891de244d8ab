"""The table of the palindrome as text and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Explanation:
    """What :meth:`racecar.Racecar.explain` returns; ``str()`` draws it as a table.

    Attributes:
        steps: one per operation on the path, in forward order.
        start: where the reverse pass begins (I_r).
        lambdas: λ_m per compared layer.
        left_out: layers that the reverse pass does not go through, with the reason.
        options: those of :class:`racecar.Racecar` that are not the default and that no column shows.
    """

    steps: tuple[Step, ...]
    start: str
    lambdas: tuple[float, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    columns = ("layer", "forward", "reverse", "L_m", "compared", "MFLOP", "λ")

    def rows(self) -> list[tuple[str, ...]]:
        """The cells as text, one tuple per step, in the order of ``columns``."""
        rows: list[tuple[str, ...]] = []
        for step in self.steps:
            rows.append(
                (
                    step.layer or "(model)",
                    step.forward,
                    step.reverse,
                    "×".join(map(str, step.shape)) if step.mirrored else "",
                    _compared(step) if step.mirrored else "",
                    f"{step.flops / 1e6:.3g}" if step.flops else "",
                    f"{self.lambdas[step.compared]:g}" if step.compared is not None else "",
                )
            )
        return rows

    def __str__(self) -> str:
        rows: Sequence[Sequence[str]] = [self.columns, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("─" * w for w in widths))
        return "\n".join([*lines, self.footer()])

    def footer(self) -> str:
        """Start, layers, cost and options, in sentences."""
        layers = sum(s.mirrored for s in self.steps)
        flops = sum(s.flops for s in self.steps)
        sentence = (
            f"The reverse pass starts at {self.start!r}, reuses {layers} layers' weights, compares "
            f"{len(self.lambdas)} and costs up to {flops / 1e6:.4g} MFLOP for the example, as much as these layers "
            "forward."
        )
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, why in self.left_out.items() if why == reason]
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            sentence += f" Not mirrored ({reason}): {', '.join(map(repr, names[:8]))}{more}."
        rest = dict(self.options)
        if (every := rest.pop("every", None)) is not None:
            sentence += f" It runs in one of {every} training calls, its penalty weighted by {every}."
        if rest:
            sentence += f" Options: {', '.join(f'{name}={value!r}' for name, value in rest.items())}."
        return sentence


def _compared(step: Step) -> str:
    if step.compared is None:
        return f"in {step.within}" if step.within else "no"
    return "yes" if step.known == 1 else f"{step.known:.2%} of it"


@dataclass(frozen=True)
class Step:
    """One forward operation on the path and its reverse: a row of :meth:`racecar.Racecar.explain`.

    Attributes:
        layer: the layer's name (module path; ``"#2"`` marks the second use), or the module of another operation.
        forward: the forward operation, e.g. ``"conv2d 3→64"``.
        reverse: what the reverse pass does for it.
        mirrored: whether it is a layer with weights that the reverse pass reuses.
        compared: the position of λ_m if L_m, this layer's input, is compared; else None.
        shape: shape of L_m in the example.
        flops: floating-point operations of the layer for the example, the same in both directions.
        within: the layer that stands for this one where both are branches of one linear map; else "".
        known: share of L_m's entries that the reverse pass regenerates; the others take no part in the loss.
    """

    layer: str
    forward: str
    reverse: str
    mirrored: bool
    compared: int | None
    shape: tuple[int, ...]
    flops: int
    known: float = 1.0
    within: str = ""
