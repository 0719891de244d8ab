"""``racecar study digits`` and ``racecar study cifar`` (Sections 5.1 and 5.2)."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study import division, growing
from racecar.study.classification import experiment as runs
from racecar.study.classification.experiment import Config, experiment_of
from racecar.study.commands.carry_out import carry_out
from racecar.study.runs import StudyError
from racecar.study.terminal import apply_preset, worker_count
from racecar.study.workers import Advance, Stop

PRESETS = ("paper", "small", "quick")
RECIPES = ("paper", "strong")


def digits_parser(words: Sequence[str]) -> ArgumentParser:
    """The options of ``racecar study digits``."""
    from racecar.study.digits.experiment import preset

    found = _parser("digits: MNIST, then n-MNIST with motion blur: Tables 3 and 4, Figures 5, 6, 16 (Section 5.1)")
    found.add_argument(
        "--nmnist", type=str, default=None, help="the published .mat file with motion blur; else made from MNIST"
    )
    apply_preset(found, words, {name: preset(name) for name in PRESETS}, "paper")
    return found


def cifar_parser(words: Sequence[str]) -> ArgumentParser:
    """The options of ``racecar study cifar``."""
    from racecar.study.cifar.experiment import preset

    found = _parser("natural images: CIFAR-10, then CIFAR-100: Table 5, Figures 7, 17 (Section 5.2)")
    found.add_argument(
        "--recipe",
        type=Literal["paper", "strong"],
        default="paper",
        help="paper: Table 12; strong: one whose Std reaches 93 %% with the paper preset, with probes and few labels",
    )
    recipe = next(
        (r for r in RECIPES if f"--recipe={r}" in words or ("--recipe", r) in itertools.pairwise(words)),
        "paper",
    )
    apply_preset(found, words, {name: preset(name, recipe) for name in PRESETS}, "paper")
    return found


def _parser(description: str) -> ArgumentParser:
    found = ArgumentParser(description=description)
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument(
        "--preset",
        type=Literal["paper", "small", "quick"],
        default="paper",
        help="paper: in full, for a GPU; small: an hour on 2 cores; quick: minutes",
    )
    found.add_argument(
        "--data", type=str, default="hub", help="a folder with mnist, cifar10 and cifar100 in parquet, or hub"
    )
    found.add_argument("--out", type=str, default=None, help="folder (default: runs/NAME-PRESET)")
    found.add_argument(
        "--workers", type=int, default=None, help="processes (default: 1 on a GPU, else one per core, two at most)"
    )
    defaults = Config()
    found.add_argument("--variants", nargs="+", type=str, default=defaults.variants, help="e.g. Std Ort RR3 Dec3")
    found.add_argument("--phases", nargs="+", type=str, default=defaults.phases, help="e.g. A B AA AB AB-probe")
    found.add_class_arguments(Config, skip={"variants", "phases"})
    return found


def run(name: str, parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StudyError("a study divides its runs among --workers: start it plainly, without accelerate launch")
    experiment = experiment_of(name)
    names = {f.name for f in dataclasses.fields(Config)}
    config = Config(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    experiment.check(config)
    recipe = getattr(options, "recipe", "paper")
    stem = f"{name}-{recipe}" if recipe != "paper" else name
    folder = Path(options.out or f"runs/{stem}-{options.preset}")
    workers = worker_count(options.workers)
    study = runs.open_study(folder, experiment, config)
    study.sweep()
    study.add_command()
    planned, cost = config.runs(), partial(runs.cost, config)
    total, done = division.work(study, planned, cost)
    if done < total and not experiment.kept(study):
        loaded, sources = runs.subsets(*experiment.load(options.data, config, _nmnist(options)), config)
        experiment.keep(study, loaded)
        study.note(sources=sources, setting=f"{recipe} recipe, {options.preset} preset")
    growing.remember(study, config)
    shares = [(name, folder, config, chain) for chain in division.chains(planned, cost, workers)]
    return carry_out(study, f"{len(planned)} networks", (total, done), _train, shares)


run_digits, run_cifar = partial(run, "digits"), partial(run, "cifar")


def _nmnist(options: Namespace) -> Path | None:
    file = getattr(options, "nmnist", None)
    return Path(file) if file is not None else None


def _train(share: tuple[str, Path, Config, list[Any]], advance: Advance, stop: Stop) -> bool:
    name, folder, config, chain = share
    experiment = experiment_of(name)
    return runs.run_share(
        runs.open_study(folder, experiment, config), experiment, config, chain, advance=advance, stop=stop
    )
