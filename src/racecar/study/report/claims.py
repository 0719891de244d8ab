"""What a study judges: claims of the paper and controls of its own, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Outcome = Literal["reproduced", "not reproduced", "undecided", "not run"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)

CONTROL = "control, not in the paper"
CONTROLS_NOTE = f'Where it says "{CONTROL}", reproduced means that the statement holds here.'
UNCORRECTED_NOTE = "Every interval is for one comparison, without a correction for their number."


@dataclass(frozen=True)
class Claim:
    """A statement that one model is better than another.

    Attributes:
        statement: the claim in one sentence.
        where: its place in the paper, or :data:`CONTROL`.
        better, worse: models in the paper's naming.
    """

    statement: str
    where: str
    better: str
    worse: str


@dataclass(frozen=True)
class Verdict:
    """A claim, where it is made, and what became of it.

    Args:
        claim: The claim in one sentence.
        where: Its place, such as "Section 4".
        outcome: "reproduced", "not reproduced", "undecided" or "not run".
        evidence: The numbers that decide it, or why they are missing.

    Raises:
        ValueError: The outcome is none of these.
    """

    claim: str
    where: str
    outcome: Outcome
    evidence: str

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            allowed = ", ".join(map(repr, OUTCOMES))
            raise ValueError(f"unknown outcome {self.outcome!r} of {self.claim!r}; allowed: {allowed}")
