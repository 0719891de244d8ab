"""The plasticity study as a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from racecar.study.classification import keeping
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.schedule import ByCost
from racecar.study.core.variants import Run
from racecar.study.plasticity import experiment, sequences
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.studies import StudySpec

if TYPE_CHECKING:
    from racecar.study.report import Page

DIVISION = ByCost(experiment.cost)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=str, default="hub", help="hub, or a folder with mnist, cifar10 or cifar100 in parquet"
    )


def _prepare(study: Study, config: PlasticityConfig, options: Any, like: Study | None) -> None:
    total, done = DIVISION.work(study, config, config.runs())
    if like is not None:
        study.take_data(like)
    if done < total and not keeping.is_kept(study):
        train, test = sequences.load(options.data, config)
        keeping.keep(study, train, test)
        name = sequences.NAMES[sequences.dataset(config)]
        where = "the hub" if options.data == "hub" else "local parquet files"
        counts = f"{len(train)} training and {len(test)} test images of all tasks together"
        study.note(sources={config.sequence: f"{name} from {where}, averaged over 2 × 2 pixels; {counts}"})
    study.note(setting=f"{options.preset} preset")


def _train(study: Study, config: PlasticityConfig, runs: Sequence[Run], inputs: None, callbacks: Callbacks) -> bool:
    return experiment.run_share(study, config, runs, callbacks)


def _report(study: Study, config: PlasticityConfig) -> Page:
    from racecar.study.plasticity.report import page

    return page(study, config)


SPEC = StudySpec(
    name=experiment.NAME,
    description="loss of plasticity over many tasks; not in the paper",
    config=PlasticityConfig,
    presets={"full": "hours", "small": "ten minutes on 2 cores", "quick": "a smoke test"},
    examples={"variants": "e.g. Std Ort RR3 Dec3", "phases": "e.g. A A-first A-1 A-2 A-3 A-4 A-5"},
    division=DIVISION,
    train=_train,
    report=_report,
    add_options=_add_options,
    prepare=_prepare,
    label=lambda options: f"{options.sequence}-{options.preset}",
    unit="chains",
)
