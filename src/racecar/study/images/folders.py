"""A folder with one folder of images per class, directly or below one folder per split."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Opened, Part
from racecar.study.images.rows import Files, counted, printable, some_of
from racecar.study.images.splits import ROLES, looks_like_split, role
from racecar.study.images.tree import Folder


def read(source: str, root: Folder) -> Opened:
    """Class folders, directly or below folders that are splits.

    Raises:
        StudyError: what lies there has no classes, or could be read in two ways.
    """
    splits = _splits(source, root)
    if splits is None:
        _refuse_lookalikes(source, root)
        parts = {"train": partial(_part, source, root)}
        return Opened(source, "class folders", parts, False, root.left_out(), _alike(root), _one_class(source, root))
    beside = Counter(root.others)
    for folder in root.folders:
        if folder.name not in splits:
            beside += folder.left_out()
            beside["folder without images"] += 1
    left_out = sum((f.left_out() for f in splits.values()), beside)
    parts = {name: partial(_part, source, f) for name, f in splits.items()}
    first = next((f for n, f in splits.items() if role(n) == "train"), root)
    return Opened(source, "class folders below splits", parts, False, left_out, (), _one_class(source, first))


def _splits(source: str, root: Folder) -> dict[str, Folder] | None:
    """The folders that are splits; None if the classes lie in the root itself.

    Folders are splits if all that hold images are called so and hold classes.
    """
    filled = root.filled()
    named = [f for f in filled if role(f.name)]
    deep = [f for f in named if f.filled()]
    if not deep:
        return None
    shown = f"{printable(deep[0].name)}/"
    if root.images:
        raise StudyError(
            f"{source} holds {counted(len(root.images), 'image')} beside {shown}: move them into a class's folder, or "
            "elsewhere"
        )
    if flat := [f for f in named if f not in deep]:
        raise StudyError(
            f"{place(source, flat[0])} holds {counted(flat[0].count(), 'image')} and no classes, beside {shown} which "
            "holds folders: sort them into one folder per class, or move the folder elsewhere"
        )
    if others := [f for f in filled if f not in named]:
        names = _folders(others)
        raise StudyError(
            f"{source} holds {names} beside {shown}, and splits are called train, validation or test: rename {names} "
            f"or move it elsewhere; if {shown} is a class, put its images directly into it"
        )
    if bare := [f for f in root.folders if role(f.name) and f not in named]:
        raise StudyError(
            f"{place(source, bare[0])}: a split without an image that can be opened{_instead(bare[0])}: add some, or "
            "remove the folder"
        )
    return {f.name: f for f in sorted(named, key=lambda f: list(ROLES).index(str(role(f.name))))}


def _refuse_lookalikes(source: str, root: Folder) -> None:
    """``training_set`` and ``test_set`` with the same classes in each are no classes."""
    filled = root.filled()
    alike = [f for f in filled if looks_like_split(f.name) and f.filled() and not f.images]
    if len(filled) > 1 and alike and (len(alike) == len(filled) or len(_shared(filled)) > 1):
        raise StudyError(
            f"{source} holds {_folders(filled)}, and {_folders(alike[:1])} holds {_folders(alike[0].filled())}: if the "
            "former are splits, call them train, validation or test; if they are classes, name them otherwise, or put "
            "their images directly into them"
        )


def _alike(root: Folder) -> tuple[str, ...]:
    shared = _shared(root.filled())
    return (f"every class holds the folders {some_of(sorted(shared))}",) if len(shared) > 1 else ()


def _shared(folders: Sequence[Folder]) -> set[str]:
    """Names of folders that all of them hold."""
    names = [{f.name for f in folder.filled()} for folder in folders]
    return set.intersection(*names) if len(names) > 1 else set()


def _part(source: str, folder: Folder) -> Part:
    """One split: a class per folder in it.

    Raises:
        StudyError: no classes, images beside them, or a class without an image.
    """
    where, filled = place(source, folder), folder.filled()
    if not filled and not folder.images:
        raise StudyError(nothing(where, folder))
    if folder.images and folder.folders:
        raise StudyError(
            f"{where} holds {counted(len(folder.images), 'image')} beside the folders of its classes "
            f"({_folders(folder.folders)}): which class are they? Move them into its folder, or elsewhere"
        )
    if not filled:
        raise StudyError(
            f"{where} holds {counted(len(folder.images), 'image')} and no folders, so there are no classes: sort them "
            "into one folder per class, or name their labels in a file, --labels labels.csv (path, label)"
        )
    for child in folder.folders:
        if not child.count():
            raise StudyError(
                f"{place(source, child)}: a class without an image that can be opened{_instead(child)}: add some, or "
                "remove the folder"
            )
        inner = child.filled()
        if len(inner) > 1 and not child.images and all(role(f.name) for f in inner):
            remedy = f"put splits above the classes, as in {printable(inner[0].name)}/{printable(child.name)}/"
            if len(filled) == 1:
                remedy = f"give it as --data {place(source, child)}"
            raise StudyError(f"{place(source, child)} holds {_folders(inner)}: {remedy}")
    # The order of datasets' ImageFolder, which trainings of before began with.
    found = sorted((file, number) for number, child in enumerate(filled) for file in child.files())
    names = tuple(_class_name(f.name) for f in filled)
    if twice := [n for n, c in Counter(names).items() if c > 1]:
        raise StudyError(f"{where} holds two folders for the class {some_of(twice)}, written differently: join them")
    return Part(Files.of(source, [file for file, _ in found]), [number for _, number in found], names)


def _one_class(source: str, folder: Folder) -> str:
    """What to do where there is one class alone."""
    inside = [f for child in folder.filled() for f in child.filled()]
    if len(inside) < 2:
        return ": add the folder of another class"
    return f", and its folder holds {_folders(inside)}: if these are the classes, give it as --data"


def nothing(where: str, folder: Folder) -> str:
    """What to say of a folder in which no image can be opened."""
    found = _instead(folder)
    if found:
        return f"{where} holds no image that can be opened{found}"
    return (
        f"{where} is empty: it needs one folder of images per class, directly or below train/ and validation/, or "
        "parquet files"
    )


def place(source: str, folder: Folder) -> str:
    """A folder's path, for messages."""
    return printable(os.path.join(source, folder.path)) if folder.path else source


def _folders(found: Sequence[Folder]) -> str:
    return some_of([f"{f.name}/" for f in found])


def _instead(folder: Folder) -> str:
    """What lies there that is no image, and what opens it."""
    others = folder.left_out()
    if not others:
        return ""
    found = ", ".join(f"{count} {what}" for what, count in others.most_common(3))
    remedy = ""
    if others.keys() & {".heic", ".heif", ".hif"}:
        remedy = "; pip install pillow-heif opens HEIC"
    elif others.keys() & {".avif", ".avifs"}:
        remedy = "; a newer Pillow opens AVIF"
    elif "without extension" in others:
        remedy = "; images are known by their suffix, as .png"
    return f" ({found}{remedy})"


def _class_name(folder: str) -> str:
    """As Unicode composes it: some systems write é as two characters. Bytes that are no text are spelt out."""
    text = os.fsencode(folder).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)
