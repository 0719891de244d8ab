"""``racecar study mutual-information``: the 12-bit task (Section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.carry_out import Prepared
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.processes import Advance, Stop
from racecar.study.core.terminal import apply_preset, worker_count
from racecar.study.core.variants import Run
from racecar.study.mutual_information import experiment
from racecar.study.mutual_information.config import PRESETS, MutualInformationConfig


def parser(words: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    found = ArgumentParser(description="the 12-bit task: Tables 1 and 2, Figures 2, 3, 4, 14 (Section 4)")
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument("--preset", type=Literal["paper", "quick"], default="paper", help="quick: under 20 seconds")
    found.add_argument(
        "--out", type=str, default=None, help="folder (default: runs/mutual-information-PRESET-PROTOCOL)"
    )
    found.add_argument("--workers", type=int, default=None, help="processes (default: one per core, two at most)")
    found.add_argument(
        "--variants", nargs="+", type=str, default=MutualInformationConfig().variants, help="e.g. Std Ort RR1 RR6"
    )
    found.add_class_arguments(MutualInformationConfig, skip={"variants"})
    apply_preset(found, words, PRESETS)
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    workers = worker_count(options.workers)
    return prepare(config_of(parser, options), options, folder_of(options)).carry_out(workers)


def config_of(parser: ArgumentParser, options: Namespace) -> MutualInformationConfig:
    """What the options say.

    Raises:
        ValueError: it cannot be trained.
    """
    names = {f.name for f in dataclasses.fields(MutualInformationConfig)}
    return MutualInformationConfig(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})


def folder_of(options: Namespace, stem: str = "mutual-information") -> Path:
    """Where the study lies."""
    return Path(options.out or f"runs/{stem}-{options.preset}-{options.protocol}")


def prepare(config: MutualInformationConfig, options: Namespace, folder: Path, like: Study | None = None) -> Prepared:
    """The study; its data are a part of the code.

    Args:
        config, options, folder: what is asked for, and where.
        like: a study with the same data.
    """
    study = experiment.open_study(folder, config)
    study.add_command()
    experiment.remember(study, config)

    def divide(workers: int) -> list[tuple[list[Run], tuple[Path, MutualInformationConfig]]]:
        shares = [dataclasses.replace(config, variants=share) for share in experiment.parts(config, workers)]
        return [(experiment.runs_of(share), (folder, share)) for share in shares]

    return Prepared(study, experiment.runs_of(config), _train, divide, partial(experiment.work, study, config))


def _train(share: tuple[Path, MutualInformationConfig], advance: Advance, stop: Stop) -> bool:
    folder, config = share
    return experiment.run_study(experiment.open_study(folder, config), config, Callbacks(advance, stop=stop))
