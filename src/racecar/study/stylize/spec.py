"""The stylization study as a command; it sees with the networks of a VGG study."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.files import read_json
from racecar.study.core.folder import Study
from racecar.study.core.schedule import ByCost
from racecar.study.core.variants import Run
from racecar.study.studies import StudySpec
from racecar.study.stylize import experiment
from racecar.study.stylize.experiment import Sources, StylizeConfig
from racecar.study.stylize.judge import Judge
from racecar.study.stylize.networks import KINDS, open_network

if TYPE_CHECKING:
    from racecar.study.report import Page


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--vgg", type=str, default=None, help="folder of a VGG study (default: runs/vgg-PRESET)")
    parser.add_argument(
        "--pictures",
        type=str,
        default=None,
        help="folder with tubingen, hoovertowernight, starry_night, horse, zebra, golden_gate (any image format); "
        "without it only the shapes are run",
    )
    parser.add_argument("--judge", type=str, default=None, help=f"an independent network that measures: {KINDS}")


def _sources(options: Any) -> Sources:
    pictures = Path(options.pictures).resolve() if options.pictures is not None else None
    return Sources(Path(options.vgg or f"runs/vgg-{options.preset}"), pictures, options.judge)


def _choose(config: StylizeConfig, options: Any, folder: Path) -> tuple[StylizeConfig, Sources]:
    """Without pictures, and with nothing else said, the shapes alone."""
    if options.pictures is None and config.phases == StylizeConfig().phases:
        config = dataclasses.replace(config, phases=[p for p in config.phases if p == "shapes"])
    sources = _sources(options)
    experiment.check(sources, config)
    if options.judge is not None:
        judging = open_network(options.judge)
        Judge(judging.network, judging.normalisation)  # else raises
    return config, sources


def _agree(study: Study, config: StylizeConfig, sources: Sources) -> None:
    experiment.agree(study, experiment.fingerprints(sources, config))


def _prepare(study: Study, config: StylizeConfig, options: Any, like: Study | None) -> None:
    """Note where networks and pictures come from; have the judge see what was made before it was given."""
    sources, known = _sources(options), study.metadata()
    trained = read_json(sources.vgg / "study.json")
    origin = f"{trained.get('setting', 'a VGG study')}, {' '.join(trained.get('sources', {}).values())}"
    study.note(
        setting=f"{options.preset} preset",
        sources={"Networks": f"those of racecar study vgg ({origin})"},
        pictures=str(sources.pictures) if sources.pictures is not None else known.get("pictures"),
        judge=open_network(options.judge).words if options.judge is not None else known.get("judge"),
    )
    experiment.judge_finished(study, config, sources)


def _train(study: Study, config: StylizeConfig, runs: Sequence[Run], sources: Sources, callbacks: Callbacks) -> bool:
    return experiment.run_share(study, config, sources, runs, callbacks)


def _report(study: Study, config: StylizeConfig) -> Page:
    from racecar.study.stylize.report import page

    return page(study, config)


SPEC = StudySpec(
    name=experiment.NAME,
    description="stylization with the networks of `racecar study vgg`: Figures 10 to 13 (Section 5.4)",
    config=StylizeConfig,
    presets={"paper": "large pictures, for a GPU", "small": "half an hour on 2 cores", "quick": "minutes"},
    examples={"variants": "e.g. Std RR16", "phases": "shapes building horse detail"},
    division=ByCost(experiment.cost),
    train=_train,
    report=_report,
    add_options=_add_options,
    choose=_choose,
    agree=_agree,
    prepare=_prepare,
    unit="runs",
)
