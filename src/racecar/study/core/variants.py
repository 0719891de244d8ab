"""Variants × seeds × phases: the paper's naming scheme (Section 3), shared by every experiment.

Phase I trains on task A (``Std_A``, ``RR^6_A``, ``Ort_A``) or on B from scratch (``Std_B``). Phase II continues
plainly on the same task (``AA``) or on task B (``AB``); a study with several tasks B numbers them (``AB1``, ``B2``). A
phase may name a way of its own after a hyphen: ``AB-probe`` trains a new last layer alone, ``AB-1pct`` and ``B-1pct``
see one percent of B's labels, ``AB-head`` begins with the last layer drawn anew (:mod:`.restart`). ``A-start`` is a
plain model that all variants of phase I begin with; ``A-early`` is a phase I that ends early, from which ``AB-early``
continues.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from racecar.study.core import methods
from racecar.study.core.methods import Method

_PHASE = r"(?:A|AA|A?B\d?)(?:-[a-z0-9]+)?"


@dataclass(frozen=True, order=True)
class Variant:
    """A way of training in phase I by its name; what the name means is its method's business.

    ``Std``; ``StdC``, as long as RR takes (compute-matched); ``Ort``, with SRIP (Eq. 2); ``RR<s>``, racecar training
    over s layers, ``RR<s>s`` with the reverse pass's batch norm statistics shared; ``Dec<s>``, as RR<s> but with an
    untied decoder: a reverse pass with weights of its own. RR's cheaper ways follow a hyphen each: ``RR<s>-every<k>``,
    ``-fraction<f>``, ``-layerwise`` and ``-subset<k>``, the arguments of :class:`racecar.Racecar`. And whatever else
    is registered, see :mod:`racecar.study.core.methods`.

    Attributes:
        name: as typed and used in paths, e.g. ``"RR6"`` or ``"RR6-every4"``.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``"Std"``, ``"StdC"``, ``"Ort"``, ``"RR6"``, ``"RR^6"``, ``"RR6s"``, ``"RR6-every4"`` or ``"Dec6"``.

        Raises:
            ValueError: anything else, with what is allowed.
        """
        return cls(methods.parse(text).name)

    @property
    def method(self) -> Method:
        """How it trains.

        Raises:
            ValueError: no method has its name.
        """
        return methods.parse(self.name)

    @property
    def depth(self) -> int:
        """s of RR^s, the number of compared layers; 0 for those that compare none."""
        return self.method.depth

    @property
    def family(self) -> str:
        """Its method's name: ``"RR"`` of ``"RR6-every4"``."""
        return self.method.family

    @property
    def label(self) -> str:
        """As printed: ``"RR^6"``."""
        return self.method.label


@dataclass(frozen=True, order=True)
class Run:
    """One training run: a variant, a phase and a seed."""

    variant: Variant
    phase: str
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
        match = re.fullmatch(rf"([\w.-]+?)_({_PHASE})/seed-(\d+)", key)
        if match is None:
            raise ValueError(f"{key!r} is not a run")
        return cls(Variant.parse(match[1]), match[2], int(match[3]))

    @property
    def task(self) -> str:
        """The task this run is trained and tested on: ``"A"``, ``"B"``, or ``"B1"`` where there are several."""
        return self.path.removeprefix("A") or "A"

    @property
    def path(self) -> str:
        """A, B, AA or AB, with the task's number."""
        return self.phase.partition("-")[0]

    @property
    def way(self) -> str:
        """What stands after the phase's hyphen, ``"probe"`` or ``"1pct"``; "" for full training on all labels."""
        return self.phase.partition("-")[2]

    @property
    def source(self) -> Run | None:
        """The phase-I run whose weights this one continues from.

        Of several tasks B, ``AB1-early`` begins with an early state that A itself has kept.
        """
        if self.path[:2] not in ("AA", "AB"):
            return None
        return Run(self.variant, EARLY if self.phase == "AB-early" else "A", self.seed)


STD = Variant("Std")
START, EARLY = "A-start", "A-early"


def plan(
    variants: Iterable[Variant], seeds: Sequence[int], phases: Sequence[str] = ("A", "B", "AA", "AB")
) -> list[Run]:
    """All runs of a study, sources before what continues from them; ``B`` from scratch and the start for Std alone.

    Raises:
        ValueError: a phase that is none, or phase II without A.
    """
    chosen = list(dict.fromkeys(variants))
    for phase in phases:
        if re.fullmatch(_PHASE, phase) is None:
            raise ValueError(f"no phase {phase!r}: use A, B, AA, AB, AB1 and so on, or a way of one such as AB-probe")
        source = Run(STD, phase, 0).source
        if source is not None and source.phase not in phases:
            raise ValueError(f"{phase} continues from phase I: add {source.phase} to the phases")
    runs = []
    for phase in sorted(dict.fromkeys(phases), key=lambda p: (p != START, len(p.partition("-")[0]))):
        if phase == START:
            trained = [STD]
        else:
            trained = [STD] if phase[0] == "B" and STD in chosen else chosen if phase[0] == "A" else []
        runs += [Run(v, phase, s) for v in trained for s in seeds]
    return runs
