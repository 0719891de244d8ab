"""WebDataset's shards: images in ``.tar`` files, each beside its label, read where they lie and never unpacked.

``0001.jpg`` is an image, ``0001.cls`` its class, a name or a number; or ``0001.json`` an object that holds it.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Opened, Part
from racecar.study.images.hub import LABELS
from racecar.study.images.rows import Content, Files, checksum, printable, some_of
from racecar.study.images.splits import role
from racecar.study.images.tree import openable

LABEL = "cls"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
_NUMBERS = re.compile(r"[-_.]?[\d{}.]+$")  # of a shard, behind the name of its split


@dataclass(frozen=True)
class Members:
    """Images in uncompressed archives.

    Attributes:
        archives: their paths.
        names: of the images, an archive's before each.
        places: [N, 3], int64: archive, first byte, bytes.
    """

    archives: tuple[str, ...]
    names: Files
    places: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Content:
        archive, first, count = self.places[row].tolist()
        with open(self.archives[archive], "rb") as file:
            file.seek(first)
            return file.read(count)

    def some(self, rows: range) -> list[Content]:
        """See :class:`racecar.study.images.rows.Rows`."""
        return [self[row] for row in rows]

    def name(self, row: int) -> str:
        """See :class:`racecar.study.images.rows.Rows`."""
        return printable(self.names.relative(row))

    def take(self, rows: Tensor) -> Members:
        """See :class:`racecar.study.images.rows.Rows`."""
        return replace(self, names=self.names.take(rows), places=self.places[rows])

    def checksum(self) -> int:
        """See :class:`racecar.study.images.rows.Rows`."""
        return checksum(self.places[:, 2].tolist(), self.names.names)


def is_shard(path: str) -> bool:
    """Whether a file is an archive that can be read at any place."""
    return path.lower().endswith(".tar")


def below(folder: str) -> list[str]:
    """The archives below a folder, in order."""
    found = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.lower().endswith((".tar", *_COMPRESSED)))


def read(source: str, archives: Sequence[str], label: str | None) -> Opened:
    """Labelled images in archives; a split is called as its archives are, or as their folder.

    Args:
        source: its name, for messages.
        archives: paths.
        label: the ending of the labels' files, or the key in the ``.json`` beside an image; None: ``cls``, or the usual
            keys.

    Raises:
        StudyError: an archive is compressed, or is none.
    """
    if packed := [a for a in archives if not is_shard(a)]:
        raise StudyError(
            f"{source} holds compressed archives, which cannot be read at any place: {some_of(packed)}. Make them .tar"
        )
    splits: dict[str, list[str]] = {}
    for archive in archives:
        splits.setdefault(_split(archive), []).append(archive)
    return Opened(source, "WebDataset", {n: partial(_part, source, tuple(a), label) for n, a in splits.items()})


def _split(archive: str) -> str:
    folder, name = os.path.split(archive)
    stem = _NUMBERS.sub("", name.rpartition(".")[0])
    words = [stem, *reversed(re.split(r"[-_.]", stem)), os.path.basename(folder)]
    return next((w for w in words if role(w)), "train")


@dataclass
class _Sample:
    """The files of one name, without their endings."""

    image: tuple[str, int, int] | None = None  # name, first byte, bytes
    others: dict[str, bytes] = field(default_factory=dict)


def _part(source: str, archives: tuple[str, ...], label: str | None) -> Part:
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    values: list[Any] = []
    for number, archive in enumerate(archives):
        for sample in _samples(archive, label):
            if sample.image is None:
                continue
            name, first, count = sample.image
            names.append(f"{archive}/{name}")
            places.append((number, first, count))
            values.append(_value(sample, label, names[-1]))
    if names and all(v is None for v in values):
        raise StudyError(
            f"{source} holds archives without labels beside the images (.{label or LABEL}, or .json): unpack them into "
            "one folder per class"
        )
    rows = Members(archives, Files.of("", names), torch.tensor(places, dtype=torch.long).reshape(-1, 3))
    return Part(rows, values)


def _samples(archive: str, label: str | None) -> Iterator[_Sample]:
    """Files that follow one another and differ in their ending alone."""
    wanted = {label or LABEL, "json"}
    current, sample = None, _Sample()
    try:
        with tarfile.open(archive, "r:") as file:
            while (member := file.next()) is not None:
                file.members = []  # type: ignore[attr-defined]  # else it keeps all that it has seen
                folder, name = os.path.split(member.name)
                stem, _, ending = name.partition(".")
                if not member.isreg() or not stem:
                    continue
                if (folder, stem) != current:
                    yield sample
                    current, sample = (folder, stem), _Sample()
                if f".{ending.rpartition('.')[2].lower()}" in openable():
                    if sample.image is None:
                        sample.image = member.name, member.offset_data, member.size
                elif ending in wanted and (content := file.extractfile(member)) is not None:
                    sample.others[ending] = content.read(2**20)
        yield sample
    except (tarfile.TarError, OSError) as error:
        raise StudyError(f"{printable(archive)} cannot be read as an archive: {error}") from error


def _value(sample: _Sample, label: str | None, name: str) -> Any:
    """The label as it stands; None if there is none."""
    text = sample.others.get(label or LABEL)
    if text is not None:
        word = text.decode("utf-8", "replace").strip()
        return int(word) if re.fullmatch(r"-?\d{1,18}", word) else word
    if "json" not in sample.others:
        return None
    try:
        content = json.loads(sample.others["json"])
    except ValueError as error:
        raise StudyError(f"the .json beside {printable(name)} is none: {error}") from error
    keys = (label,) if label else (LABEL, *LABELS)
    return next((content[k] for k in keys if isinstance(content, dict) and k in content), None)
