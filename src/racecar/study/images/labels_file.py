"""A file that names images and their labels: CSV, TSV or a JSON object a line, as ``--labels`` or ``metadata.csv``."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Opened, Part
from racecar.study.images.rows import Files, counted, printable, some_of
from racecar.study.images.splits import ROLES, role
from racecar.study.images.tree import Folder

METADATA = ("metadata.csv", "metadata.jsonl")  # as datasets' ImageFolder calls them
PATHS = ("path", "file_name", "filename", "file", "filepath", "file_path", "image", "image_path", "img", "id", "name")
LABELS = ("label", "labels", "class", "category", "target", "class_name", "label_name", "fine_label", "y")
SPLITS = ("split", "subset", "set", "partition")


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        columns: their names; empty where the file does not name them.
        rows: cells by column.
        typed: whether cells have types; in CSV all are text.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    typed: bool = False


def of_folder(source: str, root: Folder) -> dict[str, str]:
    """The folders, below the source, in which a metadata file lies, and its path; "" is the source itself."""
    found = {}
    for below in ("", *(f.path for f in root.folders)):
        for name in METADATA:
            path = os.path.join(source, below, name)
            if os.path.isfile(path):
                found[below] = path
    return found


def read_metadata(source: str, root: Folder, image: str | None, label: str | None) -> Opened | None:
    """What ImageFolder's metadata files say; None if there are none, or none with labels.

    Raises:
        StudyError: they are damaged, or not where they have to be.
    """
    files = of_folder(source, root)
    if not files:
        return None
    if label is None and not any(_label_column(_table(path)) for path in files.values()):
        return None
    if "" in files:
        return read(source, files[""], root, image, label)
    bare = [f.name for f in root.filled() if f.path not in files]
    if bare or not all(role(name) for name in files):
        raise StudyError(
            f"{source} holds {some_of(sorted(files.values()))}, and none beside it or in {some_of(bare)}: put one into "
            "every split (train, validation, test), or one into the folder itself"
        )
    opened = {
        name: read(os.path.join(source, name), path, next(f for f in root.folders if f.path == name), image, label)
        for name, path in sorted(files.items(), key=lambda item: list(ROLES).index(str(role(item[0]))))
    }
    parts = {name: one.splits["train"] for name, one in opened.items()}
    left_out = sum((one.left_out for one in opened.values()), Counter(root.others))
    remarks = tuple(dict.fromkeys(r for one in opened.values() for r in one.remarks))
    return Opened(source, "metadata.csv", parts, False, left_out, remarks)


def read(source: str, file: str, root: Folder, image: str | None = None, label: str | None = None) -> Opened:
    """Images and labels that a file names.

    Args:
        source: the folder that the file's paths start from.
        file: of labels.
        root: what lies in the folder.
        image, label: columns, if their names do not say it.

    Raises:
        StudyError: no such columns, images that are not there, or several labels for one.
    """
    table = _table(file)
    path_at, label_at = _columns(table, file, source, image, label)
    split_at = _split_column(table, file)
    values = _values([row[label_at] for row in table.rows], table.typed, file)
    names = _located(source, [row[path_at] for row in table.rows], file)
    labels: dict[str, dict[str, Any]] = defaultdict(dict)
    twice = 0
    seen: dict[str, tuple[str, Any]] = {}
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        split = str(table.rows[row][split_at]).strip() if split_at is not None else "train"
        known = seen.setdefault(name, (split, value))
        twice += name in labels[known[0]]
        if known != (split, value):
            what = f"{known[1]} and {value}" if known[1] != value else f"{known[0]} and {split}"
            raise StudyError(
                f"{file} names {printable(name)} as {what}: an image has one label and is in one split here"
            )
        labels[split][name] = value
    if split_at is None and all(role(name.split("/", 1)[0]) for name in names):  # ImageFolder's splits
        labels = defaultdict(dict)
        for name, (_, value) in seen.items():
            labels[name.split("/", 1)[0]][name] = value
    left_out = Counter(root.left_out())
    left_out[f"not in {os.path.basename(file)}"] = len(set(root.files()) - seen.keys())
    left_out[os.path.splitext(file)[1]] -= os.path.realpath(os.path.dirname(file)) == os.path.realpath(source)
    remarks = [f"labels from {printable(os.path.basename(file))}"]
    remarks += [f"{counted(twice, 'row')} of it repeated"] if twice else []
    order = sorted(labels, key=lambda s: list(ROLES).index(role(s) or "train"))
    parts: dict[str, Callable[[], Part]] = {s: partial(_part, source, labels[s]) for s in order}
    return Opened(source, os.path.basename(file), parts, False, +left_out, tuple(remarks))


def _part(source: str, labels: dict[str, Any]) -> Part:
    return Part(Files.of(source, list(labels)), list(labels.values()))


# --- the file ---------------------------------------------------------------------------------------------------------


def _table(file: str) -> Table:
    """All rows.

    Raises:
        StudyError: not there, empty, or damaged.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            if file.endswith(".jsonl"):
                return _of_json([json.loads(line) for line in opened if line.strip()], file)
            return _of_csv(opened.read(), file)
    except OSError as error:
        raise StudyError(f"{printable(file)} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise StudyError(f"{file} is no table of images and labels: {error}") from error


def _of_json(rows: list[Any], file: str) -> Table:
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise StudyError(f'{file} does not hold a JSON object per line, as {{"file_name": …, "label": …}}')
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(columns, [tuple(row.get(c) for c in columns) for row in rows], True)


def _of_csv(text: str, file: str) -> Table:
    first = text.partition("\n")[0]
    delimiter = max(",\t;", key=first.count)
    rows = [
        row for row in csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True) if row
    ]
    rows = [[cell.strip() for cell in row] for row in rows]
    if not rows:
        raise StudyError(f"{file} is empty: it needs a line per image, path and label")
    if wrong := [i for i, row in enumerate(rows) if len(row) != len(rows[0])]:
        raise StudyError(f"{file}: line {wrong[0] + 1} has {len(rows[wrong[0]])} columns, and the first {len(rows[0])}")
    named = {cell.casefold() for cell in rows[0]}
    has_header = bool(named & {*PATHS, *LABELS}) or len(rows[0]) > 2
    return Table(tuple(rows[0]) if has_header else (), [tuple(row) for row in rows[has_header:]])


def _columns(table: Table, file: str, source: str, image: str | None, label: str | None) -> tuple[int, int]:
    if not table.columns and image is None and label is None and table.rows and len(table.rows[0]) == 2:
        return 0, 1
    for name in (image, label):
        if name is not None and name not in table.columns:
            raise StudyError(f"{file} has no column {name!r}, only {some_of(table.columns)}")
    if not table.rows:
        raise StudyError(f"{file} names no images")
    found = image if image is not None else _first(table, PATHS)
    if found is None:
        raise StudyError(f"{file}: which column names the images? It has {some_of(table.columns)}: --image-column")
    kind = label if label is not None else _label_column(table)
    if kind is None and len(table.columns) == 2:
        kind = next(c for c in table.columns if c != found)
    if kind is None:
        flags = [c for i, c in enumerate(table.columns) if {str(row[i]) for row in table.rows} == {"0", "1"}]
        if len(flags) > 1:
            raise StudyError(
                f"{file} holds 0 and 1 in the columns {some_of(flags)}: several labels per image are not learnt here; "
                "write one column with the name of the class"
            )
        raise StudyError(f"{file}: which column holds the labels? It has {some_of(table.columns)}: --label-column")
    return table.columns.index(found), table.columns.index(kind)


def _first(table: Table, names: Sequence[str]) -> str | None:
    folded = {column.casefold(): column for column in reversed(table.columns)}
    return next((folded[name] for name in names if name in folded), None)


def _label_column(table: Table) -> str | None:
    return _first(table, LABELS)


def _split_column(table: Table, file: str) -> int | None:
    name = _first(table, SPLITS)
    if name is None:
        return None
    at = table.columns.index(name)
    others = sorted({str(row[at]) for row in table.rows if not role(str(row[at]).strip())})
    if others and name.casefold() == "split":
        raise StudyError(f"{file}: a split is called train, validation or test, and not {some_of(others)}")
    return None if others else at


def _values(cells: list[Any], typed: bool, file: str) -> list[Any]:
    """Numbers where all cells are numbers."""
    if typed:
        return cells
    _refuse_several(cells, file)
    for kind in (int, float):
        try:
            return [kind(cell) if cell else None for cell in cells]
        except ValueError:
            continue
    return cells


def _refuse_several(cells: list[str], file: str) -> None:
    """Cells such as ``cat|dog`` or ``cat dog``, where cat and dog are labels elsewhere."""
    whole = set(cells)
    for separator in "|;, ":
        parts = [[p.strip() for p in cell.split(separator)] for cell in cells]
        known = Counter(part for row in parts for part in row)
        for cell, row in zip(cells, parts, strict=True):
            several = len(row) > 1 and all(p in whole if separator == " " else known[p] > 1 for p in row)
            if several or (cell[:1] == "[" and cell[-1:] == "]"):
                raise StudyError(
                    f"{file}: {printable(cell)} is a list of labels: several per image are not learnt here, only one "
                    "class; choose another column, --label-column"
                )


# --- its paths --------------------------------------------------------------------------------------------------------


def _located(source: str, cells: list[Any], file: str) -> list[str]:
    """Paths below the source, as written or with Windows' separators.

    Raises:
        StudyError: images that are not there.
    """
    names, missing = [], []
    for cell in cells:
        name = os.path.normpath(str(cell))
        if not os.path.isfile(os.path.join(source, name)):
            name = os.path.normpath(str(cell).replace("\\", "/"))
            if not os.path.isfile(os.path.join(source, name)):
                missing.append(str(cell))
        names.append(name)
    if missing:
        raise StudyError(
            f"{len(missing)} of {counted(len(cells), 'image')} in {file} are not in {source}: {some_of(missing)}"
            f"{_hint(source, missing[0])}"
        )
    return names


def _hint(source: str, name: str) -> str:
    folder, base = os.path.split(os.path.join(source, name))
    try:
        near = sorted(e for e in os.listdir(folder) if os.path.splitext(e)[0] == base)
    except OSError:
        near = []
    return f"; {printable(near[0])} is there: paths need their suffix" if near else ". Paths start from --data"
