"""``racecar study digits``, ``cifar`` and ``vgg`` (Sections 5.1, 5.2 and 5.4)."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.classification import experiment as runs
from racecar.study.classification.experiment import ClassificationConfig, Experiment, experiment_of
from racecar.study.commands.carry_out import Prepared
from racecar.study.commands.report import write_report
from racecar.study.core import growing
from racecar.study.core import schedule as division
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.processes import Advance, Stop, Stopper
from racecar.study.core.terminal import STOPPED, apply_preset, progress_bar, worker_count
from racecar.study.core.variants import Run

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


def vgg_parser(words: Sequence[str]) -> ArgumentParser:
    """The options of ``racecar study vgg``."""
    from racecar.study.vgg.experiment import VggConfig, preset

    found = _parser("VGG19 on ImageNet, Table 15, or on any images (Sections 5.4 and A.5)", VggConfig)
    found.add_argument(
        "--shard",
        action="store_true",
        help="under accelerate launch: divide weights, gradients and moments among the processes (FSDP2)",
    )
    apply_preset(found, words, {name: preset(name) for name in PRESETS}, "paper")
    return found


def _parser(description: str, config: type[ClassificationConfig] = ClassificationConfig) -> ArgumentParser:
    found = ArgumentParser(description=description)
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument(
        "--preset",
        type=Literal["paper", "small", "quick"],
        default="paper",
        help="paper: in full, for a GPU; small: an hour on 2 cores; quick: minutes",
    )
    found.add_argument(
        "--data",
        type=str,
        default="hub",
        help="hub; for digits and cifar a folder with mnist, cifar10 and cifar100 in parquet; for vgg a hub name, a "
        "folder of images by class, a folder with parquet files, or a .parquet file",
    )
    found.add_argument("--out", type=str, default=None, help="folder (default: runs/NAME-PRESET)")
    found.add_argument(
        "--workers", type=int, default=None, help="processes (default: 1 on a GPU, else one per core, two at most)"
    )
    defaults = config()
    found.add_argument("--variants", nargs="+", type=str, default=defaults.variants, help="e.g. Std Ort RR3 Dec3")
    found.add_argument("--phases", nargs="+", type=str, default=defaults.phases, help="e.g. A B AA AB AB-probe")
    found.add_class_arguments(config, skip={"variants", "phases"})
    return found


def run(name: str, parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    experiment = experiment_of(name)
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if together and not experiment.shared:
        raise StudyError("this study divides its runs among --workers: start it plainly, without accelerate launch")
    config, folder = config_of(name, parser, options), folder_of(name, options)
    if together:
        return _together(experiment, config, folder, options)
    if getattr(options, "shard", False):
        raise ValueError("--shard divides a network among processes: start them by accelerate launch or torchrun")
    workers = worker_count(options.workers)
    return prepare(name, config, options, folder).carry_out(workers)


def config_of(name: str, parser: ArgumentParser, options: Namespace) -> ClassificationConfig:
    """What the options say.

    Raises:
        ValueError: it cannot be trained.
    """
    experiment = experiment_of(name)
    names = {f.name for f in dataclasses.fields(experiment.config)}
    config = experiment.config(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    experiment.check(config)
    return config


def folder_of(name: str, options: Namespace, stem: str | None = None) -> Path:
    """Where the study lies."""
    recipe = getattr(options, "recipe", "paper")
    stem = "-".join([stem or name, *([recipe] if recipe != "paper" else [])])
    return Path(options.out or f"runs/{stem}-{options.preset}")


def prepare(
    name: str, config: ClassificationConfig, options: Namespace, folder: Path, like: Study | None = None
) -> Prepared:
    """The study with its data.

    Args:
        name: of the experiment.
        config, options, folder: what is asked for, and where.
        like: a study with the same data, already kept there.
    """
    experiment = experiment_of(name)
    study, _ = _opened(experiment, config, folder, options, like)
    cost = partial(runs.cost, config)

    def divide(workers: int) -> list[tuple[list[Run], tuple[str, Path, ClassificationConfig, list[Run]]]]:
        return [(chain, (name, folder, config, chain)) for chain in division.chains(config.runs(), cost, workers)]

    return Prepared(study, config.runs(), _train, divide, partial(division.work, study, cost=cost))


run_digits, run_cifar, run_vgg = (partial(run, name) for name in ("digits", "cifar", "vgg"))


def _opened(
    experiment: Experiment, config: ClassificationConfig, folder: Path, options: Namespace, like: Study | None = None
) -> tuple[Study, tuple[int, int]]:
    """The study with its data, and how much work there is and is done."""
    study = runs.open_study(folder, experiment, config)
    study.add_command()
    known = study.about().get("data")
    given = str(Path(options.data).resolve()) if Path(options.data).exists() else options.data
    study.note(data=given if given != "hub" else known or given)
    try:
        work = _prepared(study, experiment, config, options, like)
    except BaseException:
        study.note(data=known)  # what was wrong is not where the next call looks
        raise
    recipe = f"{getattr(options, 'recipe', 'paper')} recipe, " if experiment.name != "vgg" else ""
    study.note(setting=f"{recipe}{options.preset} preset")
    growing.remember(study, config)
    return study, work


def _prepared(
    study: Study, experiment: Experiment, config: ClassificationConfig, options: Namespace, like: Study | None
) -> tuple[int, int]:
    """Keep the data where it is not kept yet; how much work there is and is done."""
    work = division.work(study, config.runs(), partial(runs.cost, config))
    if like is not None:
        study.take_data(like)
    if work[1] < work[0] and not experiment.kept(study, config):
        loaded, sources = experiment.subsets(*experiment.load(options.data, config, _nmnist(options)), config)
        experiment.keep(study, loaded)
        study.note(sources=sources)
    return work


def _together(experiment: Experiment, config: ClassificationConfig, folder: Path, options: Namespace) -> int:
    """Every run in turn, trained by all processes that ``accelerate launch`` or ``torchrun`` has started."""
    accelerator = make_accelerator()
    main = accelerator.is_main_process
    study, work = _opened(experiment, config, folder, options) if main else (None, (1, 0))
    if study is not None:
        study.remove_leftovers()
    accelerator.wait_for_everyone()
    shown = progress_bar(f"{len(config.runs())} networks", *work) if main else nullcontext(lambda units: None)
    started = time.monotonic()
    with Stopper() as stop, shown as advance:
        opened = runs.open_study(folder, experiment, config)
        complete = runs.run_share(
            opened, experiment, config, config.runs(), Callbacks(advance, stop=stop), shard=options.shard
        )
    if main:
        assert study is not None
        study.add_seconds(time.monotonic() - started)
        print(STOPPED if not complete else f"report: {write_report(folder)}", file=sys.stderr if not complete else None)
    accelerator.end_training()
    return 0 if complete else 130


def _nmnist(options: Namespace) -> Path | None:
    file = getattr(options, "nmnist", None)
    return Path(file) if file is not None else None


def _train(share: tuple[str, Path, ClassificationConfig, list[Run]], advance: Advance, stop: Stop) -> bool:
    name, folder, config, chain = share
    experiment = experiment_of(name)
    return runs.run_share(
        runs.open_study(folder, experiment, config), experiment, config, chain, Callbacks(advance, stop=stop)
    )
