"""``racecar study mutual-information``: the 12-bit task (Section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.carry_out import carry_out
from racecar.study.mutual_information import experiment
from racecar.study.mutual_information.config import PRESETS, Config
from racecar.study.terminal import apply_preset, worker_count
from racecar.study.workers import Advance, Stop


def parser(words: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    found = ArgumentParser(description="the 12-bit task: Tables 1 and 2, Figures 2, 3, 4, 14 (Section 4)")
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument("--preset", type=Literal["paper", "quick"], default="paper", help="quick: under 20 seconds")
    found.add_argument(
        "--out", type=str, default=None, help="folder (default: runs/mutual-information-PRESET-PROTOCOL)"
    )
    found.add_argument("--workers", type=int, default=None, help="processes (default: one per core, two at most)")
    found.add_argument("--variants", nargs="+", type=str, default=Config().variants, help="e.g. Std Ort RR1 RR6")
    found.add_class_arguments(Config, skip={"variants"})
    apply_preset(found, words, PRESETS)
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    names = {f.name for f in dataclasses.fields(Config)}
    config = Config(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    folder = Path(options.out or f"runs/mutual-information-{options.preset}-{config.protocol}")
    workers = worker_count(options.workers)
    study = experiment.open_study(folder, config)
    study.sweep()
    study.add_command()
    experiment.remember(study, config)
    shares = [(folder, dataclasses.replace(config, variants=share)) for share in experiment.parts(config, workers)]
    return carry_out(
        study,
        f"{len(experiment.runs_of(config))} networks",
        experiment.total_epochs(study, config),
        _train,
        shares,
    )


def _train(share: tuple[Path, Config], advance: Advance, stop: Stop) -> bool:
    folder, config = share
    return experiment.run_study(experiment.open_study(folder, config), config, advance=advance, stop=stop)
