"""``racecar study stylize`` (Section 5.4, Figures 10 to 13)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.carry_out import carry_out
from racecar.study.core import growing
from racecar.study.core import schedule as division
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.files import read_json
from racecar.study.core.processes import Advance, Stop
from racecar.study.core.terminal import apply_preset, worker_count
from racecar.study.core.variants import Run
from racecar.study.stylize import experiment
from racecar.study.stylize.experiment import PRESETS, Sources, StylizeConfig
from racecar.study.stylize.judge import Judge
from racecar.study.stylize.networks import KINDS, open_network


def parser(words: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    found = ArgumentParser(
        description="stylization with the networks of `racecar study vgg`: Figures 10 to 13 (Section 5.4)"
    )
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument(
        "--preset",
        type=Literal["paper", "small", "quick"],
        default="paper",
        help="paper: large pictures, for a GPU; small: half an hour on 2 cores; quick: minutes",
    )
    found.add_argument("--vgg", type=str, default=None, help="folder of a VGG study (default: runs/vgg-PRESET)")
    found.add_argument(
        "--pictures",
        type=str,
        default=None,
        help="folder with tubingen, hoovertowernight, starry_night, horse, zebra, golden_gate (any image format); "
        "without it only the shapes are run",
    )
    found.add_argument("--judge", type=str, default=None, help=f"an independent network that measures: {KINDS}")
    found.add_argument("--out", type=str, default=None, help="folder (default: runs/stylize-PRESET)")
    found.add_argument(
        "--workers", type=int, default=None, help="processes (default: 1 on a GPU, else one per core, two at most)"
    )
    defaults = StylizeConfig()
    found.add_argument("--variants", nargs="+", type=str, default=defaults.variants, help="e.g. Std RR16")
    found.add_argument("--phases", nargs="+", type=str, default=defaults.phases, help="shapes building horse detail")
    found.add_class_arguments(StylizeConfig, skip={"variants", "phases"})
    apply_preset(found, words, PRESETS, "paper")
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Stylize what is missing and write the report."""
    names = {f.name for f in dataclasses.fields(StylizeConfig)}
    config = StylizeConfig(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    if options.pictures is None and config.phases == StylizeConfig().phases:
        config = dataclasses.replace(config, phases=[p for p in config.phases if p == "shapes"])
    pictures = Path(options.pictures).resolve() if options.pictures is not None else None
    sources = Sources(Path(options.vgg or f"runs/vgg-{options.preset}"), pictures, options.judge)
    experiment.check(sources, config)
    words = None
    if options.judge is not None:
        seeing = open_network(options.judge)
        Judge(seeing.network, seeing.normalisation)
        words = seeing.words
    workers = worker_count(options.workers)
    study = experiment.open_study(Path(options.out or f"runs/stylize-{options.preset}"), config)
    experiment.agree(study, experiment.fingerprints(sources, config))
    study.add_command()
    planned, cost = config.runs(), partial(experiment.cost, config)
    trained = read_json(sources.vgg / "study.json")
    about = f"{trained.get('setting', 'a VGG study')}, {' '.join(trained.get('sources', {}).values())}"
    study.note(
        setting=f"{options.preset} preset",
        sources={"Networks": f"those of racecar study vgg ({about})"},
        pictures=str(pictures) if pictures is not None else study.about().get("pictures"),
        judge=words or study.about().get("judge"),
    )
    growing.remember(study, config)
    experiment.judge_finished(study, config, sources)
    shares = [(study.folder, config, sources, chain) for chain in division.chains(planned, cost, workers)]
    return carry_out(study, f"{len(planned)} runs", division.work(study, planned, cost), _stylize, shares)


def _stylize(share: tuple[Path, StylizeConfig, Sources, list[Run]], advance: Advance, stop: Stop) -> bool:
    folder, config, sources, chain = share
    return experiment.run_share(
        experiment.open_study(folder, config), config, sources, chain, Callbacks(advance, stop=stop)
    )
