"""Finding somebody's images: which layout it is, which splits there are, which classes. Nothing is decoded yet."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from racecar.study.core.errors import StudyError
from racecar.study.images import folders, hub, labels, shards, splits
from racecar.study.images import labels_file as files
from racecar.study.images.found import Found, Opened, Split
from racecar.study.images.rows import Files, Rows, counted, printable, some_of
from racecar.study.images.tree import Folder, scan

SHARDS = "archives"
_KINDS = "give a folder of images by class, a .parquet or .tar file, a folder with such files, or a name on the hub"


def to_stderr(text: str) -> None:
    """Tell the user at once."""
    print(text, file=sys.stderr, flush=True)


def find(
    source: str,
    *,
    validation: str | None = None,
    labels_file: str | None = None,
    image: str | None = None,
    label: str | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = to_stderr,
) -> Found:
    """Find the images to train on and those to measure on.

    Args:
        source: a folder with one folder of images per class, directly or below splits; a parquet file, an archive of
            WebDataset's, or a folder with such files; one that ``save_to_disk`` of :mod:`datasets` wrote; or a name on
            the hub.
        validation: the split to measure on (default: validation, else test, else a tenth is held out).
        labels_file: names the images of a folder and their labels (path, label).
        image, label: columns, if not the only ones.
        seed: of what is held out.
        tell: called with what the user should know at once.

    Raises:
        StudyError: whatever is wrong with the data, in one line that says what to do.
    """
    opened = _open(source, labels_file, image, label, tell)
    choice = splits.choose(list(opened.splits), validation, source, opened.guessable)
    remarks = [*opened.remarks]
    part, name = opened.splits[choice.train](), f"{source} ({choice.train})"
    if not len(part.rows):
        raise StudyError(f"{name} holds no images")
    numbers, classes, word = labels.of_training(part, name)
    train = Split(part.rows, numbers, name)
    measured = None if choice.validation is None else opened.splits[choice.validation]()
    if measured is not None and validation is None and labels.are_secret(measured.values):
        remarks.append(f"not used: {printable(str(choice.validation))}, whose labels are not published")
        choice, measured = replace(choice, validation=None), None
    if measured is None:
        out = splits.held_out(numbers, source, seed)
        train, test = train.take((~out).nonzero()[:, 0]), train.take(out.nonzero()[:, 0])
    else:
        name = f"{source} ({choice.validation})"
        if not len(measured.rows):
            raise StudyError(f"{name} holds no images")
        test = Split(measured.rows, labels.of_validation(measured, classes, name), name)
    found = Found(source, opened.layout, classes, train, test, choice.train, choice.validation, opened.left_out)
    _check(found, opened.one_class)
    if choice.unused:
        remarks.append(f"not used: {some_of(choice.unused)}")
    return found.with_remarks(*filter(None, (word, *_about_classes(found))), *remarks)


def find_known(
    source: str,
    classes: tuple[str, ...],
    *,
    split: str | None = None,
    labels_file: str | None = None,
    image: str | None = None,
    label: str | None = None,
    tell: Callable[[str], None] = to_stderr,
) -> tuple[Split, str | None]:
    """Find images of classes that a network knows already.

    Args:
        source, labels_file, image, label, tell: see :func:`find`.
        classes: names, by label.
        split: the one wanted (default: validation, else test, else all images).

    Returns:
        The images, and the name of their split; None: all of a data set without one to measure on.

    Raises:
        StudyError: whatever is wrong with the data, or it holds other classes.
    """
    opened = _open(source, labels_file, image, label, tell)
    names = list(opened.splits)
    if split is not None and split.casefold() in (n.casefold() for n in names):
        chosen: str | None = next(n for n in names if n.casefold() == split.casefold())
    else:
        chosen = splits.choose(names, split, source, opened.guessable).validation
    name = f"{source} ({chosen or names[0]})"
    part = opened.splits[chosen or names[0]]()
    if not len(part.rows):
        raise StudyError(f"{name} holds no images")
    return Split(part.rows, labels.of_validation(part, classes, name, labels.not_known), name), chosen


def _check(found: Found, hint: str) -> None:
    """At least two classes, and none that only validation has."""
    train, test = found.counts(found.train), found.counts(found.validation)
    absent = [c for c, a, b in zip(found.classes, train, test, strict=True) if b and not a]
    if absent:
        raise labels.no_training_image(absent, found.validation.name)
    present = [c for c, a in zip(found.classes, train, strict=True) if a]
    if len(present) < 2:
        raise StudyError(f"{found.source} holds one class, {some_of(present)}, and nothing to tell it from{hint}")


def _about_classes(found: Found) -> list[str]:
    """What is odd about classes, and no error."""
    said = []
    empty = [c for c, n in zip(found.classes, found.counts(found.train), strict=True) if not n]
    if empty:
        said.append(f"{counted(len(empty), 'class', 'classes')} without an image: {some_of(empty)}")
    folded = [c.casefold().strip() for c in found.classes]
    times = Counter(folded)
    if alike := [c for c, f in zip(found.classes, folded, strict=True) if times[f] > 1]:
        said.append(f"classes that differ in case or spaces alone: {some_of(alike)}")
    return said


@dataclass(frozen=True)
class Pictures:
    """Images without labels.

    Attributes:
        rows: where they lie.
        table: the data set they are from, for its other columns; None for files.
    """

    rows: Rows
    table: Any = None


def pictures(source: str, image: str | None = None, tell: Callable[[str], None] = to_stderr) -> Pictures:
    """Find images whatever their labels: all below a folder, or a data set's training split.

    Args:
        source: see :func:`find`.
        image: the column, if not the only one.
        tell: called with what the user should know at once.

    Raises:
        StudyError: nothing there, or not readable.
    """
    layout, root = _layout(source)
    if layout == SHARDS:
        raise StudyError(f"{source} holds archives: their images are read with their labels alone, or unpacked")
    if root is not None and not layout:
        names = list(root.files())
        if not names:
            raise StudyError(folders.nothing(source, root))
        return Pictures(Files.of(source, names))
    found = hub.tables(source, tell)
    table = found.get("train") or next(iter(found.values()))
    return Pictures(hub.encoded(table, image or hub.image_column(table, source)), table)


def _open(
    source: str, labels_file: str | None, image: str | None, label: str | None, tell: Callable[[str], None]
) -> Opened:
    layout, root = _layout(source)
    if labels_file is not None:
        if root is None:
            raise StudyError(f"--labels names the images of a folder, and {source} is none")
        return files.read(source, _labels_path(labels_file, source), root, image, label)
    if layout == SHARDS:
        return shards.read(source, shards.below(source) if os.path.isdir(source) else [source], label)
    if root is None or layout:
        return hub.read(source, layout, image, label, tell)
    if (opened := files.read_metadata(source, root, image, label)) is not None:
        return opened
    for name, own in ((image, "image"), (label, "label")):
        if name not in (None, own):
            raise StudyError(f"{source} has no column {name!r}, only image, label: its labels are its folders")
    return folders.read(source, root)


def _labels_path(file: str, source: str) -> str:
    """Where a labels file lies: as said, or in the folder."""
    inside = os.path.join(source, file)
    return inside if not os.path.exists(file) and os.path.isfile(inside) else file


def _layout(source: str) -> tuple[str, Folder | None]:
    """A word for what ``datasets`` reads, else what lies in the folder.

    Raises:
        StudyError: it is nothing that could be read.
    """
    if os.path.isfile(source):
        if shards.is_shard(source):
            return SHARDS, None
        if not source.endswith(".parquet"):
            raise StudyError(f"{source} is not a data set: {_of_file(source)}")
        return "parquet file", None
    if os.path.isdir(source):
        if hub.is_saved(source):
            return "saved by datasets", None
        root = scan(source)
        parquet = root.left_out()[".parquet"]
        if not root.count() and not parquet and shards.below(source):
            return SHARDS, root
        if parquet and root.count():
            raise StudyError(
                f"{source} holds {parquet} parquet and {root.count()} image files: give the folder of either alone"
            )
        return ("parquet files" if parquet else ""), root
    if os.path.lexists(source) or not hub.may_be_name(source):
        raise StudyError(f"{printable(source)} does not exist{_nearest(source)}: {_KINDS}")
    return "the hub", None


def _of_file(source: str) -> str:
    """What to do with a file that is no data set."""
    if source.lower().endswith((".zip", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar")):
        return "unpack it, and give its folder"
    if source.lower().endswith((".csv", ".tsv", ".jsonl")):
        return f"give the folder of the images, and --labels {source}"
    return _KINDS


def _nearest(source: str) -> str:
    folder, name = os.path.split(source.rstrip("/"))
    try:
        near = splits.nearest(name, (e.name for e in os.scandir(folder or ".") if not e.name.startswith(".")))
    except OSError:
        return ""
    return f" (is {printable(os.path.join(folder, near))} meant?)" if near else ""
