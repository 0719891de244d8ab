"""What a study judges: claims of the paper and controls of its own, and the headings that models stand under."""

from __future__ import annotations

from dataclasses import dataclass

CONTROL = "control, not in the paper"


GROUPS = {
    "Common start": ("A-start",),
    "Phase I, task A": ("A",),
    "Phase II, task A again": ("AA",),
    "Phase II, transfer to task B": ("AB",),
    "Task B from scratch": ("B",),
    "A new last layer on frozen features, task B": ("AB-probe",),
    "Task B with 1 % of its labels": ("AB-1pct", "B-1pct"),
    "Task B with 10 % of its labels": ("AB-10pct", "B-10pct"),
}


@dataclass(frozen=True)
class Claim:
    """Words that hold if one model's accuracy is above another's.

    Attributes:
        words: the claim in one sentence.
        where: its place in the paper, or :data:`CONTROL`.
        better, worse: models in the paper's naming.
    """

    words: str
    where: str
    better: str
    worse: str
