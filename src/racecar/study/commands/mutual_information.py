"""``racecar study mutual-information``: the 12-bit task (Section 4)."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.report import write_report
from racecar.study.mutual_information import experiment
from racecar.study.mutual_information.config import PRESETS, Config
from racecar.study.terminal import apply_preset, progress_bar, worker_count
from racecar.study.workers import Advance, Stop, Stopper, run_shares


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
    started = time.monotonic()
    total, done = experiment.total_epochs(study, config)
    complete = True
    if done < total:
        with Stopper() as stop, progress_bar(f"{len(experiment.runs_of(config))} networks", total, done) as advance:
            complete = run_shares(_train, shares, advance, stop)
        study.add_seconds(time.monotonic() - started)
    path = write_report(folder)
    if not complete:
        print("racecar: stopped; what is done is kept and the same command goes on from here", file=sys.stderr)
        return 130
    print(f"report: {path}")
    return 0


def _train(share: tuple[Path, Config], advance: Advance, stop: Stop) -> bool:
    folder, config = share
    return experiment.run_study(experiment.open_study(folder, config), config, advance=advance, stop=stop)
