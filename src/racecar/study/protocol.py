"""Variants × seeds × phases: the paper's naming scheme (Section 3), shared by every experiment.

Phase I trains on task A (``Std_A``, ``RR^6_A``, ``Ort_A``) or on B from scratch (``Std_B``). Phase II continues
plainly on the same task (``AA``) or on task B (``AB``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["A", "B", "AA", "AB"]
PHASES: tuple[Phase, ...] = ("A", "B", "AA", "AB")


@dataclass(frozen=True, order=True)
class Variant:
    """A way of training in phase I: ``Std``, ``Ort`` or ``RR<s>``.

    Attributes:
        name: as typed and used in paths, e.g. ``"RR6"``.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``"Std"``, ``"Ort"``, ``"RR6"`` or ``"RR^6"``, in any case.

        Raises:
            ValueError: anything else, with what is allowed.
        """
        plain = text.strip().lower().replace("^", "")
        if plain in ("std", "ort"):
            return cls(plain.capitalize())
        if (match := re.fullmatch(r"rr([1-9]\d*)", plain)) is not None:
            return cls(f"RR{match[1]}")
        raise ValueError(f"no variant {text!r}: use Std, Ort or RR with the number of compared layers, e.g. RR6")

    @property
    def depth(self) -> int:
        """s of RR^s, the number of compared layers; 0 for Std and Ort."""
        return int(self.name[2:]) if self.name.startswith("RR") else 0

    @property
    def family(self) -> Literal["Std", "Ort", "RR"]:
        """Std, Ort or RR: decides the colour in figures."""
        return self.name[:2] if self.depth else self.name  # type: ignore[return-value]

    @property
    def label(self) -> str:
        """As printed: ``"RR^6"``."""
        return f"RR^{self.depth}" if self.depth else self.name


@dataclass(frozen=True, order=True)
class Run:
    """One training run: a variant, a phase and a seed."""

    variant: Variant
    phase: Phase
    seed: int

    @property
    def model(self) -> str:
        """The model's name in the tables, e.g. ``"RR^6_AB"``."""
        return f"{self.variant.label}_{self.phase}"

    @property
    def key(self) -> str:
        """Its folder below ``runs/``, e.g. ``"RR6_AB/seed-3"``."""
        return f"{self.variant.name}_{self.phase}/seed-{self.seed}"

    @classmethod
    def parse(cls, key: str) -> Run:
        """The inverse of :attr:`key`.

        Raises:
            ValueError: not a key.
        """
        match = re.fullmatch(r"(\w+)_(A|B|AA|AB)/seed-(\d+)", key)
        if match is None:
            raise ValueError(f"{key!r} is not a run")
        return cls(Variant.parse(match[1]), match[2], int(match[3]))  # type: ignore[arg-type]

    @property
    def task(self) -> Literal["A", "B"]:
        """The task this run is trained and tested on."""
        return self.phase[-1]  # type: ignore[return-value]

    @property
    def source(self) -> Run | None:
        """The phase-I run whose weights this one continues from."""
        return Run(self.variant, "A", self.seed) if len(self.phase) == 2 else None


STD = Variant("Std")


def plan(variants: Iterable[Variant], seeds: Sequence[int], *, phase_two: bool = True) -> list[Run]:
    """All runs of a study, sources before what continues from them; ``B`` from scratch for Std alone."""
    chosen = list(dict.fromkeys(variants))
    runs = [Run(v, "A", s) for v in chosen for s in seeds]
    if phase_two:
        runs += [Run(STD, "B", s) for s in seeds] if STD in chosen else []
        runs += [Run(v, p, s) for p in ("AA", "AB") for v in chosen for s in seeds]  # type: ignore[arg-type]
    return runs
