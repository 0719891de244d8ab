"""What a study judges: claims of the paper and controls of its own, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Outcome = Literal["reproduced", "equivalent", "not reproduced", "undecided", "not run"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)

CONTROL = "control, not in the paper"
CONTROLS_NOTE = f'Where it says "{CONTROL}", reproduced means that the statement holds here.'
SMOKE_TEST = "Smoke test: no conclusions. It shows that everything runs."
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
        outcome: "reproduced", "equivalent" (no difference that matters), "not reproduced", "undecided" or "not run".
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


def answer(main: Verdict | None, verdicts: Sequence[Verdict]) -> str:
    """A study's answer in a sentence, and how many of its claims came out how in another.

    Args:
        main: the claim that the study is about; None: it has none.
        verdicts: all of them.
    """
    said = []
    if main is not None:
        judged = main.outcome != "not run"
        said.append(
            f"**{main.claim}: {main.outcome}.** {main.evidence}."
            if judged
            else f"**No answer yet.** {main.claim}: {main.evidence}."
        )
    if len(verdicts) > 1:
        counts = {o: sum(v.outcome == o for v in verdicts) for o in OUTCOMES}
        tally = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        said.append(f"Of {len(verdicts)} claims and controls: {tally}.")
    return " ".join(said)
