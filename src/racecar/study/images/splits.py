"""Which split is trained on, and which images measure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.rows import printable, some_of

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = "|".join(word for words in ROLES.values() for word in words)


def role(name: str) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"`` for a split's name in any case; None for other names."""
    return next((r for r, words in ROLES.items() if name.casefold() in words), None)


def looks_like_split(name: str) -> bool:
    """Whether the name of a split is a word in it, as in ``training_set``."""
    return re.search(rf"(^|[\W_])({_WORDS})([\W_\d]|$)", name.casefold()) is not None


@dataclass(frozen=True)
class Choice:
    """Splits by their names.

    Attributes:
        train: to train on.
        validation: to measure on; None: to be held out.
        unused: the others.
    """

    train: str
    validation: str | None
    unused: tuple[str, ...]


def choose(names: Sequence[str], wanted: str | None, source: str, guess: bool = True) -> Choice:
    """The split to train on and the one to measure on.

    Args:
        names: of the splits there are.
        wanted: the one to measure on, in any case; None: validation, else test.
        source: for messages.
        guess: train on the first split where none is called train, which then has to be said.

    Raises:
        StudyError: no such split, or several that could be meant.
    """
    called = _only([n for n in names if role(n) == "train"], source, "to train on")
    if called is None and not guess:
        raise StudyError(
            f"{source} holds no train/, only {some_of([f'{n}/' for n in names])}: rename one, or give it as --data "
            f"{source.rstrip('/')}/{printable(names[0])}"
        )
    train: str = called if called is not None else names[0]
    others = [n for n in names if n != train]
    if wanted is not None:
        validation: str | None = _named(wanted, names, train, source)
    else:
        kinds = ([n for n in others if role(n) == kind] for kind in ("validation", "test"))
        found = (_only(kind, source, "to measure on", "; choose one with --validation") for kind in kinds)
        validation = next((n for n in found if n is not None), None)
    return Choice(train, validation, tuple(n for n in others if n != validation))


def _only(names: list[str], source: str, purpose: str, remedy: str = ": rename one or move it elsewhere") -> str | None:
    if len(names) > 1:
        raise StudyError(f"{source} holds several splits {purpose}, {some_of(names)}{remedy}")
    return names[0] if names else None


def _named(wanted: str, names: Sequence[str], train: str, source: str) -> str:
    wanted = wanted.rstrip("/")
    same = [n for n in names if n == wanted] or [n for n in names if n.casefold() == wanted.casefold()]
    if len(same) == 1 and same[0] != train:
        return same[0]
    others = [n for n in names if n != train]
    if same:
        raise StudyError(f"{source}: {train} is trained on, so that --validation {wanted} would measure nothing")
    if not others:
        raise StudyError(
            f"{source} has no split {wanted!r}, only {train}: leave out --validation, and a tenth of it is held out"
        )
    near = nearest(wanted, others) or next((n for n in others if role(n) and role(n) == role(wanted)), None)
    hint = f"; --validation {printable(near)}?" if near else ""
    raise StudyError(f"{source} has no split {wanted!r}, only {some_of(list(names))}{hint}")


def nearest(wanted: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(wanted.casefold(), folded, 1)
    return folded[close[0]] if close else None


def balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A shuffled order [N] of which any prefix holds as equal a share of every class as there is.

    Args:
        labels: [N].
        seed: of the shuffling.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    labels = labels.cpu()[order]
    # The k-th image of every class comes before the k+1-th of any.
    rank = torch.zeros(len(labels), dtype=torch.long)
    for label in labels.unique():
        where = (labels == label).nonzero()[:, 0]
        rank[where] = torch.arange(len(where)) * len(labels) // len(where)
    return order[rank.argsort(stable=True)]


def held_out(labels: Tensor, source: str, seed: int) -> Tensor:
    """Which images [N] measure and are not trained on: a tenth, of every class that has two images at least one.

    Raises:
        StudyError: no class has two images.
    """
    several = (labels.bincount()[labels] > 1).nonzero()[:, 0]
    if not len(several):
        raise StudyError(f"{source} has one image per class, so that none can be held out to measure on: add images")
    count = max(len(labels[several].unique()), round(0.1 * len(labels)))
    chosen = several[balanced_order(labels[several], seed)[:count]]
    return torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, chosen, True)
