"""Studies whose variants, seeds and phases may grow later, while every other setting is fixed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from racecar.study.core.files import read_json
from racecar.study.core.folder import Study
from racecar.study.core.variants import Variant

_GROWS = ("variants", "phases", "seeds")


class Growing(Protocol):
    """A configuration (a frozen dataclass) with what may grow."""

    @property
    def variants(self) -> list[str]:
        """Names, see :class:`racecar.study.core.variants.Variant`."""

    @property
    def seeds(self) -> int:
        """How many."""

    @property
    def phases(self) -> list[str]:
        """See :mod:`racecar.study.core.variants`."""


def open_study(folder: Path, name: str, config: Growing) -> Study:
    """The study's folder.

    Raises:
        StudyError: it belongs to another experiment, or was filled with other settings.
    """
    content = asdict(config)  # type: ignore[call-overload]
    return Study(folder, name, {k: v for k, v in content.items() if k not in _GROWS})


def remember(study: Study, config: Growing) -> None:
    """Note what was asked for, so that a report can say what was not run."""
    about = study.about()
    study.note(
        variants=list(dict.fromkeys([*about.get("variants", []), *(Variant.parse(v).name for v in config.variants)])),
        phases=list(dict.fromkeys([*about.get("phases", []), *config.phases])),
        seeds=max(config.seeds, about.get("seeds", 0)),
    )


def remembered(folder: Path) -> dict[str, Any]:
    """The arguments of a study's configuration, with all that it was asked for, for the report."""
    about = read_json(folder / "study.json")
    return {**about["config"], **{k: about[k] for k in _GROWS}}
