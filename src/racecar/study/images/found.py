"""What was found, before anything is decoded: images, labels, classes, and the line that says so."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from racecar.study.images.rows import Rows, printable

LISTED = 20  # classes that the line names with their numbers


@dataclass(frozen=True)
class Part:
    """One split as its layout reads it.

    Attributes:
        rows: images.
        values: a label each, of any type.
        names: of the classes, if values are numbers of these.
    """

    rows: Rows
    values: Sequence[Any]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Opened:
    """A data set as its layout reads it, split by split.

    Attributes:
        source: its name, for messages.
        layout: in a word or two.
        splits: by name; read when chosen.
        guessable: whether a split that is not called train may be trained on.
        left_out: what was not taken for an image, and how often.
        remarks: what else there is to say.
        one_class: what to do where there is one class alone.
    """

    source: str
    layout: str
    splits: Mapping[str, Callable[[], Part]]
    guessable: bool = True
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: tuple[str, ...] = ()
    one_class: str = ""


@dataclass(frozen=True)
class Split:
    """Labelled images that are not decoded yet.

    Attributes:
        rows: the images.
        labels: [N], int64, from 0 to the number of classes - 1.
        name: of the data set and the split, for messages.
    """

    rows: Rows
    labels: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def checksum(self) -> int:
        """Changes with the images' names, sizes in bytes and labels; none is read."""
        return zlib.crc32(self.labels.numpy().data, self.rows.checksum())

    def take(self, rows: Tensor) -> Split:
        """Some of them."""
        return replace(self, rows=self.rows.take(rows), labels=self.labels[rows])


@dataclass(frozen=True)
class Found:
    """Images to train on and to measure on.

    Attributes:
        source: as given.
        layout: how they lie there.
        classes: names, by label.
        train, validation: images.
        train_split: the name of the split trained on.
        validation_split: of the one measured on; None: held out of the other, a tenth of every class.
        left_out: what was not taken for an image, and how often.
        remarks: what else there is to say.
    """

    source: str
    layout: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    train_split: str = "train"
    validation_split: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[Split, Split]:
        """Both."""
        return self.train, self.validation

    def with_remarks(self, *more: str) -> Found:
        """With more to say."""
        return replace(self, remarks=self.remarks + more)

    def counts(self, split: Split) -> list[int]:
        """Images of every class."""
        counted: list[int] = split.labels.bincount(minlength=len(self.classes)).tolist()
        return counted

    def sentence(self) -> str:
        """What was found, on one line."""
        trained = "" if self.train_split.casefold() == "train" else f" (split {printable(self.train_split)})"
        held = self.validation_split
        tested = "held out: a tenth, stratified" if held is None else f"split {printable(held)}"
        parts = [f"train {len(self.train)}{trained} / validation {len(self.validation)} ({tested})"]
        both = [a + b for a, b in zip(self.counts(self.train), self.counts(self.validation), strict=True)]
        each = list(zip(map(printable, self.classes), both, strict=True))
        if len(each) == 1:
            parts.append("without labels")
        elif len(each) <= LISTED:
            parts.append(f"{len(each)} classes: " + ", ".join(f"{n} {c}" for n, c in each))
        else:
            order = sorted(each, key=lambda pair: pair[1])
            (low, few), (high, many) = order[0], order[-1]
            parts.append(f"{len(each)} classes, from {low} {few} to {high} {many}")
        if self.left_out:
            words = (f"{count} {what}" for what, count in sorted(self.left_out.items()))
            parts.append("left out: " + ", ".join(words))
        return " · ".join([*parts, *self.remarks])

    def about(self) -> dict[str, Any]:
        """The same as numbers, for a file."""

        def part(split: Split) -> dict[str, Any]:
            return {"images": len(split), "classes": dict(zip(self.classes, self.counts(split), strict=True))}

        return {
            "source": self.source,
            "layout": self.layout,
            "said": self.sentence(),
            "train": part(self.train) | {"split": self.train_split},
            "validation": part(self.validation) | {"split": self.validation_split},
            "left_out": dict(self.left_out),
            "remarks": list(self.remarks),
        }
