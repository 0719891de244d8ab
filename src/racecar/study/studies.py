"""The studies: what each one supplies is a :class:`StudySpec`; commands, reports, sweeps and workers loop over them.

A study is a package with a module ``spec`` that holds its ``SPEC``, a folder ``presets`` of YAML files, and one line in
``STUDIES`` of :mod:`racecar_command`. A classification study makes its SPEC with
:func:`racecar.study.classification.spec.classification_study`. Nothing of a study is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import racecar_command
from racecar.study.core import growing
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study, read_description
from racecar.study.core.processes import Advance, Stop
from racecar.study.core.variants import Run

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from racecar.study.report import Page


class Division(Protocol):
    """How a study's runs are divided among processes, and how much work they are."""

    def divide(self, config: Any, workers: int) -> list[list[Run]]:
        """All runs of a configuration, for at most so many processes; none waits for another's."""

    def work(self, study: Study, config: Any, runs: Sequence[Run]) -> tuple[int, int]:
        """(all, already done) of some runs, in any unit."""


class Train(Protocol):
    """Trains some runs as far as they are not finished; safe to stop or kill at any moment and to call again."""

    def __call__(self, study: Study, config: Any, runs: Sequence[Run], inputs: Any, callbacks: Callbacks, /) -> bool:
        """Whether all of them are finished.

        Args:
            study: its folder, with what :attr:`StudySpec.prepare` has kept there.
            config: all settings.
            runs: one of the parts that :meth:`Division.divide` makes.
            inputs: what :attr:`StudySpec.choose` gave beside the configuration.
            callbacks: ``advance`` is told in the unit of :meth:`Division.work`; states are kept in the folder.
        """


def _as_asked(config: Any, options: Any, folder: Path) -> tuple[Any, Any]:
    return config, None


def _nothing(*arguments: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """What a study supplies. Its folder, its command, its sweep and its processes are made from it.

    Attributes:
        name: in commands and in study.json.
        description: of its command: what is trained, with the paper's tables, figures and section.
        config: type of its configuration, see :class:`racecar.study.core.growing.Config`; its fields become options.
        presets: what each is for, by name, the default first; ``presets/NAME.yaml`` holds the values.
        examples: of what may follow ``--variants`` and ``--phases``.
        division: of its runs among processes.
        train: one part of them.
        report: of a study and its configuration. Imports what draws when called, not before: training needs none of it.
        add_options: adds what its command takes beside settings, e.g. where data come from.
        chosen_by: options that choose the presets' file beside ``--preset``.
        preset_file: by options, the stem of that file.
        label: by options, what stands behind the study's name in its folder's; None: the preset's file.
        choose: by configuration, options and folder: what to train of the configuration, and what training needs beside
            it, picklable. Raises ValueError or StudyError where that cannot be trained.
        agree: with study, configuration and inputs; raises StudyError where an earlier call had other inputs.
        prepare: by study, configuration, options, and another study with the same data (or None): keeps in the folder
            what training needs, and notes where it comes from.
        together: as ``train``, but by all processes that ``accelerate launch`` or ``torchrun`` has started; the last
            argument says whether they divide weights and moments among them. None: they cannot.
        weight: dotted name of λ among the settings; None: the study cannot be swept over λ.
        unit: what a run is, in plural.
    """

    name: str
    description: str
    config: type[Any]
    presets: Mapping[str, str]
    examples: Mapping[str, str]
    division: Division
    train: Train
    report: Callable[[Study, Any], Page]
    add_options: Callable[[ArgumentParser], object] = _nothing
    chosen_by: Sequence[str] = ()
    preset_file: Callable[[Any], str] = lambda options: str(options.preset)
    label: Callable[[Any], str] | None = None
    choose: Callable[[Any, Any, Path], tuple[Any, Any]] = _as_asked
    agree: Callable[[Study, Any, Any], None] = _nothing
    prepare: Callable[[Study, Any, Any, Study | None], None] = _nothing
    together: Callable[[Study, Any, Sequence[Run], Any, Callbacks, bool], bool] | None = None
    weight: str | None = None
    unit: str = "networks"

    def folder(self, options: Any, stem: str | None = None) -> Path:
        """Where ``--out``, or else the other options, say that it lies.

        Args:
            options: of its command.
            stem: in place of the study's name.
        """
        label = (self.label or self.preset_file)(options)
        return Path(options.out or f"runs/{stem or self.name}-{label}")

    def open(self, folder: Path, config: Any) -> Study:
        """Its folder, created if needed.

        Raises:
            StudyError: it holds another study, or was filled with other settings.
        """
        return growing.open_study(folder, self.name, config)

    def reopen(self, folder: Path) -> tuple[Study, Any]:
        """A study on disk with its configuration.

        Raises:
            StudyError: no such study.
        """
        return growing.reopen(folder, self.name, self.config)

    def ready(self, folder: Path, config: Any, inputs: Any, options: Any, like: Study | None = None) -> ReadyStudy:
        """Open its folder and keep there what training needs.

        Args:
            folder: see :meth:`folder`.
            config, inputs: as :attr:`choose` has them.
            options: of its command.
            like: a study with the same data, already kept there.

        Raises:
            StudyError, ValueError, OSError: the folder or the data are not as they must be.
        """
        study = self.open(folder, config)
        self.agree(study, config, inputs)
        study.add_command()
        self.prepare(study, config, options, like)
        growing.remember(study, config)
        return ReadyStudy(module_of(self.name), study, config, inputs)


@dataclass(frozen=True)
class ReadyStudy:
    """A study whose folder is open and holds the data: what is left is to train. Picklable.

    Attributes:
        module: where its spec is.
        study: its folder.
        config: what is asked for.
        inputs: what training needs beside it.
    """

    module: str
    study: Study
    config: Any
    inputs: Any

    @property
    def spec(self) -> StudySpec:
        """Which study it is."""
        return _load(self.module)

    @property
    def runs(self) -> list[Run]:
        """All that are asked for."""
        runs: list[Run] = self.config.runs()
        return runs

    def parts(self, workers: int) -> list[list[Run]]:
        """The runs for at most so many processes."""
        return self.spec.division.divide(self.config, workers)

    def work(self, runs: Sequence[Run] | None = None) -> tuple[int, int]:
        """(all, already done) of some runs, in any unit; None: of all of them."""
        return self.spec.division.work(self.study, self.config, self.runs if runs is None else runs)

    def train(self, runs: Sequence[Run], callbacks: Callbacks) -> bool:
        """Train one of the parts; see :class:`Train`."""
        return self.spec.train(self.study, self.config, runs, self.inputs, callbacks)


def train_part(part: tuple[ReadyStudy, Sequence[Run]], advance: Advance, stop: Stop) -> bool:
    """A study and one of its parts, trained in whichever process: a :data:`racecar.study.core.processes.Share`."""
    ready, runs = part
    return ready.train(runs, Callbacks(advance, stop=stop))


# --- the registry -----------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A registered study, before anything of it is imported.

    Attributes:
        summary: for the list of commands.
        module: where its ``SPEC`` is.
    """

    summary: str
    module: str


_ENTRIES: dict[str, Entry] = {}


def register(name: str, summary: str, module: str | None = None) -> None:
    """Make a study known.

    Args:
        name: of its command.
        summary: one line for the list of commands.
        module: where its ``SPEC`` is; None: ``racecar.study.NAME.spec``.

    Raises:
        ValueError: there is one of that name.
    """
    if name in _ENTRIES:
        raise ValueError(f"there is a study {name!r} already, in {_ENTRIES[name].module}")
    _ENTRIES[name] = Entry(summary, module or f"racecar.study.{name.replace('-', '_')}.spec")


def registered() -> dict[str, str]:
    """The summaries of all studies by name, in order."""
    return {name: entry.summary for name, entry in _ENTRIES.items()}


def module_of(name: str) -> str:
    """Where a study's spec is.

    Raises:
        StudyError: no such study.
    """
    if name not in _ENTRIES:
        raise StudyError(f"no study {name!r}; there are {', '.join(_ENTRIES)}")
    return _ENTRIES[name].module


def spec_of(name: str) -> StudySpec:
    """A study's spec.

    Raises:
        StudyError: no such study.
        ValueError: its module holds another one's spec.
    """
    spec = _load(module_of(name))
    if spec.name != name:
        raise ValueError(f"{module_of(name)} holds the spec of {spec.name!r}, not of {name!r}")
    return spec


def _load(module: str) -> StudySpec:
    spec: StudySpec = importlib.import_module(module).SPEC
    return spec


def presets_of(name: str) -> Path:
    """The folder of a study's presets."""
    file = importlib.import_module(module_of(name)).__file__
    assert file is not None  # a module, not a namespace
    return Path(file).parent / "presets"


def page_of(folder: Path) -> Page:
    """The report of the study in a folder, whichever it is.

    Raises:
        StudyError: no study, or one that is not known.
    """
    name = read_description(folder / "study.json")["experiment"]
    if name not in _ENTRIES:
        raise StudyError(f"{folder} holds the study {name!r}, which this version cannot report")
    spec = spec_of(name)
    return spec.report(*spec.reopen(folder))


for _name, _study in racecar_command.STUDIES.items():
    register(_name, *_study)
