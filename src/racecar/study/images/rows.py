"""Images that are not decoded yet: where the i-th lies. Small to hand to another process, however many there are."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Content = str | bytes | None  # a file's path, an encoded image, or nothing


class Rows(Protocol):
    """Images in an order."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Content:
        """What to decode."""

    def some(self, rows: range) -> list[Content]:
        """Several at once, which is faster."""

    def name(self, row: int) -> str:
        """For messages."""

    def take(self, rows: Tensor) -> Rows:
        """Some of them."""

    def checksum(self) -> int:
        """Of their names and sizes in bytes; none is read."""


@dataclass(frozen=True)
class Files:
    """Files below a folder.

    Attributes:
        root: the folder.
        names: relative paths one after the other, as the system writes them.
        ends: [N], where each ends in ``names``.
    """

    root: str
    names: bytes
    ends: Tensor

    @classmethod
    def of(cls, root: str, names: Sequence[str]) -> Files:
        """From relative paths."""
        encoded = [os.fsencode(n) for n in names]
        return cls(root, b"".join(encoded), torch.tensor([len(n) for n in encoded], dtype=torch.long).cumsum(0))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> Content:
        return os.path.join(self.root, self.relative(row))

    def relative(self, row: int) -> str:
        """The path below the root."""
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])])

    def some(self, rows: range) -> list[Content]:
        """See :class:`Rows`."""
        return [self[row] for row in rows]

    def name(self, row: int) -> str:
        """See :class:`Rows`."""
        return printable(os.path.join(self.root, self.relative(row)))

    def take(self, rows: Tensor) -> Files:
        """See :class:`Rows`."""
        return Files.of(self.root, [self.relative(row) for row in rows.tolist()])

    def checksum(self) -> int:
        """See :class:`Rows`; names are those below the root."""
        return checksum((os.path.getsize(str(self[row])) for row in range(len(self))), self.names)


@dataclass(frozen=True)
class Encoded:
    """Encoded images in a column of a data set.

    Attributes:
        table: of :mod:`datasets`, the column not decoded.
        column: its name.
    """

    table: Any
    column: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Content:
        return _content(self.table[row][self.column])

    def some(self, rows: range) -> list[Content]:
        """See :class:`Rows`."""
        return [_content(c) for c in self.table[rows.start : rows.stop : rows.step][self.column]]

    def name(self, row: int) -> str:
        """See :class:`Rows`."""
        return printable((self.table[row][self.column] or {}).get("path") or f"row {row}")

    def take(self, rows: Tensor) -> Encoded:
        """See :class:`Rows`."""
        return replace(self, table=self.table.select(rows.tolist()))

    def checksum(self) -> int:
        """See :class:`Rows`; of all rows of the files, whichever are chosen."""
        import pyarrow.compute as pc

        column = self.table.data.column(self.column)
        sizes = pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), -1)
        names = zlib.crc32("\0".join(name or "" for name in pc.struct_field(column, "path").to_pylist()).encode())
        return checksum((int(size) for chunk in sizes.chunks for size in chunk.to_numpy()), names.to_bytes(4, "big"))


def checksum(sizes: Iterable[int], names: bytes) -> int:
    """Of images' sizes in bytes and their names."""
    return zlib.crc32(np.fromiter(sizes, np.int64).data, zlib.crc32(names))


def _content(cell: dict[str, Any] | None) -> Content:
    if not cell:
        return None
    return cell["bytes"] if cell.get("bytes") is not None else cell.get("path")


def printable(text: str) -> str:
    """On one line, and without what a terminal would take for a command or cannot write."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def some_of(names: Sequence[str], count: int = 5) -> str:
    """The first few, and how many more there are."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(printable, names[:count])) + rest


def counted(number: int, what: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what if number == 1 else plural or what + 's'}"
