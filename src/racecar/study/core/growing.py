"""From a configuration to a study's folder and back: what was asked for may grow later, all other settings stay."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study, read_description
from racecar.study.core.variants import Run, Variant

GROWS = ("variants", "phases", "seeds", "tuned")
Made = TypeVar("Made")


class Config(Protocol):
    """A study's configuration: a frozen dataclass of settings, maybe nested, all with a default, and what may grow."""

    @property
    def variants(self) -> list[str]:
        """Names, see :class:`racecar.study.core.variants.Variant`."""

    @property
    def phases(self) -> list[str]:
        """See :func:`racecar.study.core.variants.plan`."""

    @property
    def seeds(self) -> int:
        """How many, counted from 0."""

    def runs(self) -> list[Run]:
        """All runs that it asks for, sources before what continues from them."""


def open_study(folder: Path, name: str, config: Config) -> Study:
    """The folder of the study ``name``, created if needed.

    Raises:
        StudyError: it belongs to another experiment, or was filled with other settings.
    """
    return Study(folder, name, settings(config))


def settings(config: Config) -> dict[str, Any]:
    """What is fixed of a configuration, as plain values."""
    content = dataclasses.asdict(config)  # type: ignore[call-overload]
    return {k: v for k, v in content.items() if k not in GROWS}


def remember(study: Study, config: Config) -> None:
    """Note what was asked for beside what was before, so that a report can say what was not run."""
    known = study.metadata()
    if "variants" in known:  # who asked before the study had this setting asked for its default
        known = {"phases": type(config)().phases} | known
    asked = {"variants": [Variant.parse(v).name for v in config.variants], "phases": config.phases}
    tuned = {"tuned": {**known.get("tuned", {}), **config.tuned}} if hasattr(config, "tuned") else {}
    grown = {name: list(dict.fromkeys([*known.get(name, []), *values])) for name, values in asked.items()}
    study.note(**grown, seeds=max(config.seeds, known.get("seeds", 0)), **tuned)


def reopen(folder: Path, name: str, kind: type[Made]) -> tuple[Study, Made]:
    """A study on disk with its configuration, of the type ``kind``, and all that it was asked for.

    Raises:
        StudyError: no such study.
    """
    path = folder / "study.json"
    known = read_description(path)
    try:
        config = from_json(kind, known["config"] | {k: known[k] for k in GROWS if k in known})
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise StudyError(f"{path} holds settings of no study of this version: {error}") from error
    return open_study(folder, name, config), config  # type: ignore[arg-type]


def from_json(kind: type[Made], content: Mapping[str, Any]) -> Made:
    """A dataclass from what JSON has made of its fields: nested dataclasses and tuples come back.

    Args:
        kind: the dataclass.
        content: its arguments by name; what is left out keeps its default.
    """
    hints = typing.get_type_hints(kind)
    made = {name: _from_json(hints.get(name), value) for name, value in content.items()}
    if wrong := [name for name, value in made.items() if name in hints and not _fits(hints[name], value)]:
        raise TypeError(f"{', '.join(f'{name} is {made[name]!r}' for name in wrong)}, which is no value for it")
    return kind(**made)


def _from_json(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_json(kind, value)  # type: ignore[arg-type]
    return tuple(value) if typing.get_origin(kind) is tuple and isinstance(value, list) else value


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(part, value) for part in parts)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_fits(parts[0], v) for v in value)
    if kind is float:
        return type(value) in (int, float)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) if isinstance(kind, type) else True
