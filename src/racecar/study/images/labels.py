"""Labels of any type as numbers from 0 to the number of classes - 1, or what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Part
from racecar.study.images.rows import counted, some_of


def of_training(part: Part, source: str) -> tuple[Tensor, tuple[str, ...], str]:
    """The labels of the images to train on.

    Args:
        part: as read.
        source: its name, for messages.

    Returns:
        Labels [N] in int64, the classes' names by label, and a word where labels were numbered anew.

    Raises:
        StudyError: labels are missing, or are no classes.
    """
    values = checked(part.values, source)
    if part.names is not None:
        return _within(values, part.names, source), part.names, ""
    if any(isinstance(v, str) for v in values):
        names = tuple(sorted({str(v) for v in values}))
        _refuse_ids(len(names), len(values), source)
        place = {n: i for i, n in enumerate(names)}
        return torch.tensor([place[str(v)] for v in values]), names, ""
    numbers = np.array(values)
    distinct, labels = np.unique(numbers, return_inverse=True)
    if distinct[0] < 0:
        raise _outside(numbers, max(int(distinct[-1]) + 1, 1), source)
    _refuse_ids(len(distinct), len(values), source)
    names = tuple(map(str, distinct.tolist()))
    gap = distinct[-1] != len(distinct) - 1
    word = f"labels {distinct[0]} to {distinct[-1]} are numbered anew, classes keep their numbers as names"
    return torch.from_numpy(labels.astype(np.int64)), names, word if gap else ""


def of_validation(
    part: Part,
    classes: tuple[str, ...],
    source: str,
    refusal: Callable[[Sequence[str], str], StudyError] | None = None,
) -> Tensor:
    """The labels [N] of the images to measure on, by the classes of training.

    Args:
        part: as read.
        classes: names, by label.
        source: its name, for messages.
        refusal: what is said of names that are none of ``classes``, by names and source.

    Raises:
        StudyError: labels are missing, are no classes, or of classes that training does not have.
    """
    values = checked(part.values, source)
    dense = classes == tuple(map(str, range(len(classes))))
    if part.names is not None:
        names, numbers = part.names, _within(values, part.names, source)
    elif dense and not any(isinstance(v, str) for v in values):
        return _inside(np.array(values), len(classes), source)
    else:
        names = tuple(sorted({str(v) for v in values}))
        place = {n: i for i, n in enumerate(names)}
        numbers = torch.tensor([place[str(v)] for v in values])
    known = {n: i for i, n in enumerate(classes)}
    if unknown := [names[i] for i in numbers.unique().tolist() if names[i] not in known]:
        raise (refusal or no_training_image)(unknown, source)
    return torch.tensor([known.get(n, 0) for n in names])[numbers]


def are_secret(values: Sequence[Any]) -> bool:
    """Whether all are −1, which stands for a label that is not published."""
    return len(values) > 0 and all(isinstance(v, Integral) and v == -1 for v in values)


def no_training_image(names: Sequence[str], source: str) -> StudyError:
    """What to say of classes that only validation has."""
    return StudyError(
        f"{source}: validation holds {some_of(names)}, of which training has no image: add some, or remove what "
        "training does not have"
    )


def not_known(names: Sequence[str], source: str) -> StudyError:
    """What to say of classes that a trained network does not know."""
    return StudyError(
        f"{source} holds {some_of(names)}, which the network does not know: remove or rename these classes"
    )


def checked(values: Sequence[Any], source: str) -> Sequence[Any]:
    """Labels of one type each: text or whole numbers.

    Raises:
        StudyError: lists, fractions, missing ones, or something else.
    """
    missing = [i for i, v in enumerate(values) if v is None or v == "" or (isinstance(v, float) and math.isnan(v))]
    if missing:
        raise StudyError(f"{len(missing)} labels are missing in {source}, the first in row {missing[0]}")
    found: list[str | int] = []
    for row, value in enumerate(values):
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, bool | np.bool_):
            found.append(str(bool(value)))
        elif isinstance(value, Integral):
            found.append(int(value))
        elif isinstance(value, Real):
            if not float(value).is_integer():
                raise StudyError(
                    f"labels in {source} are quantities ({value} in row {row}): regression is not done here, only "
                    "classes; give names or whole numbers"
                )
            found.append(int(float(value)))
        elif isinstance(value, list | tuple | set | dict | np.ndarray | Tensor):
            raise StudyError(
                f"labels in {source} are lists (row {row}): several labels per image are not learnt here, only one "
                "class; choose a column with one, --label-column"
            )
        else:
            raise StudyError(f"labels in {source} are {type(value).__name__} (row {row}): give names or whole numbers")
    return found


def _within(values: Sequence[Any], names: tuple[str, ...], source: str) -> Tensor:
    if any(isinstance(v, str) for v in values):
        place = {n: i for i, n in enumerate(names)}
        if unknown := sorted({str(v) for v in values} - place.keys()):
            raise StudyError(f"labels in {source} are none of its classes: {some_of(unknown)}")
        return torch.tensor([place[v] for v in values])
    return _inside(np.array(values), len(names), source)


def _inside(numbers: np.ndarray, classes: int, source: str) -> Tensor:
    if ((numbers < 0) | (numbers >= classes)).any():
        raise _outside(numbers, classes, source)
    return torch.from_numpy(numbers.astype(np.int64))


def _outside(numbers: np.ndarray, classes: int, source: str) -> StudyError:
    outside = (numbers < 0) | (numbers >= classes)
    row = int(outside.nonzero()[0][0])
    secret = "; -1 stands for a label that is not published" if numbers[row] == -1 else ""
    known = counted(classes, "class", "classes")
    return StudyError(
        f"{int(outside.sum())} labels in {source} are outside 0 to {classes - 1} ({known}): the first is "
        f"{numbers[row]} in row {row}{secret}"
    )


def _refuse_ids(classes: int, images: int, source: str) -> None:
    if classes == images > 2:
        raise StudyError(
            f"labels in {source} are different for every image, so they are no classes: choose another column, "
            "--label-column"
        )
