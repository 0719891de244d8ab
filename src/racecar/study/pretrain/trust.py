"""What a checkpoint's ``model.json`` may ask for: it may come from anywhere, and building a model runs code.

timm's and torchvision's models by their plain names, with arguments that are numbers and words and name no file,
address or weights; networks of this package; other code only where the user repeats its name.
"""

from __future__ import annotations

import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from racecar.study.core.errors import StudyError

OWN = frozenset(
    {
        "racecar.study.cifar.network:strong",
        "racecar.study.cifar.network:table_11",
        "racecar.study.digits.experiment:network",
        "racecar.study.mutual_information.network:network",
    }
)
_TIMM = (1, 0, 20)  # earlier ones unpickle what some arguments name
_NAMES_SOMETHING = re.compile(r"pretrained|checkpoint|weights|path|file|url|hub|cache|dir$|cfg|config|module", re.I)
_MOST = 100_000  # of a size: a number beyond it asks for all memory


def check(folder: Path, model: str, options: dict[str, Any], named: str | None) -> None:
    """Refuse what must not be built.

    Args:
        folder: of the checkpoint, for messages.
        model: its ``module:NAME``.
        options: of the constructor.
        named: the name that the user has repeated, if any.

    Raises:
        StudyError: saying what, and what to do.
    """
    source, _, name = model.partition(":")
    if named is not None and named != model:
        raise StudyError(f"{folder} holds {model}, not {named}")
    if source in ("timm", "torchvision"):
        if re.fullmatch(r"[A-Za-z0-9_.]+", name) is None:
            raise StudyError(f"{folder} asks for {model}: only plain names of {source}'s models are opened")
        if source == "timm":
            _check_timm(folder)
    elif named is None and model not in OWN:
        raise StudyError(
            f"{folder} was made by {model}, which is neither timm's nor torchvision's: to run that code, repeat its "
            f"name, --model {model}"
        )
    if named is None:
        for key, value in options.items():
            _check_option(folder, key, value)


def check_input(folder: Path, content: dict[str, Any]) -> None:
    """Refuse sizes that are none.

    Raises:
        StudyError: naming the entry.
    """
    sizes = {k: content["input"][k] for k in ("channels", "height", "width")} | {"outputs": content["outputs"]}
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise StudyError(f"{folder / 'model.json'}: {name} must be a whole number from 1 to {_MOST}, not {value!r}")
    for name in ("mean", "std"):
        values = content["input"][name]
        if not isinstance(values, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise StudyError(f"{folder / 'model.json'}: {name} must be a list of numbers, not {values!r}")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise StudyError(f"{folder / 'model.json'}: classes must be names")


def _check_option(folder: Path, key: str, value: Any) -> None:
    place = f"{folder / 'model.json'}: the model's argument {key!r}"
    if _NAMES_SOMETHING.search(key):
        raise StudyError(f"{place} may name a file, an address or weights, which is not opened: take it out")
    for part in _parts(value):
        if isinstance(part, str) and re.fullmatch(r"[A-Za-z0-9_.+-]{0,64}", part) is None:
            raise StudyError(f"{place} is {part!r}: only plain words are passed on")
        if isinstance(part, int | float) and not abs(part) <= _MOST:
            raise StudyError(f"{place} is {part!r}: beyond {_MOST}, no size that a model has")
        if not isinstance(part, str | int | float | bool | None):
            raise StudyError(f"{place} is a {type(part).__name__}, which is not passed on")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    if isinstance(value, dict):
        return [part for item in value.items() for part in _parts(list(item))]
    return [value]


def _check_timm(folder: Path) -> None:
    try:
        installed = version("timm")
    except PackageNotFoundError:
        return  # said where the model is made
    numbers = tuple(int(n) for n in re.findall(r"\d+", installed)[:3])
    if numbers < _TIMM:
        wanted = ".".join(map(str, _TIMM))
        raise StudyError(
            f"{folder} holds a model of timm: timm {wanted} or newer is needed to open it, not {installed}"
        )
