"""The study of coarse and fine labels as a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from racecar.study.classification import keeping
from racecar.study.coarse_to_fine import experiment, tuning
from racecar.study.coarse_to_fine.config import TransferConfig
from racecar.study.coarse_to_fine.pairs import PAIRS
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.schedule import ByCost
from racecar.study.core.variants import Run
from racecar.study.studies import StudySpec, presets_of

if TYPE_CHECKING:
    from racecar.study.report import Page

DIVISION = ByCost(experiment.cost)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--data", type=str, default="hub", help="hub, or a folder with the data set of the pair in it")
    parser.add_argument(
        "--tuned-on",
        type=str,
        default=None,
        help="folder of a finished study on another pair: every method gets the value that did best there",
    )


def _preset_file(options: Any) -> str:
    return f"{_presets(options.pair)}-{options.preset}"


def _presets(pair: str) -> str:
    """What the files with a pair's presets are called by."""
    return (PAIRS[pair].presets if pair in PAIRS else "") or pair


def _choose(config: TransferConfig, options: Any, folder: Path) -> tuple[TransferConfig, None]:
    presets = presets_of(experiment.NAME)
    if not (presets / f"{_preset_file(options)}.yaml").exists():
        stem = _presets(config.pair)
        names = ", ".join(sorted(p.stem.removeprefix(f"{stem}-") for p in presets.glob(f"{stem}-*.yaml")))
        raise ValueError(f"no {options.preset} preset of {config.pair}: use --preset {names or 'of another pair'}")
    if options.tuned_on is not None:
        config = dataclasses.replace(config, tuned=tuning.chosen(Path(options.tuned_on), config))
    config.runs()  # says now what is missing
    return config, None


def _prepare(study: Study, config: TransferConfig, options: Any, like: Study | None) -> None:
    if like is not None:
        study.take_data(like)
    total, done = DIVISION.work(study, config, config.runs())
    if done < total and not keeping.is_kept(study):
        train, test = experiment.load(options.data, config)
        keeping.keep(study, train, test)
        pair = config.tasks
        where = "the hub" if options.data == "hub" else "local files"
        words = f"{pair.source.title} from {where}; used here: {len(train)} training and {len(test)} test images"
        study.note(
            sources={
                "A": f"{words}, labels: {', '.join(pair.groups)}",
                "B": f"the same images, {'own labels' if pair.fine is None else 'labels: ' + ', '.join(pair.fine)}",
            }
        )
    if options.tuned_on is not None:
        folder = Path(options.tuned_on)
        study.note(candidate=tuning.candidate(folder, config), tuning_epochs=tuning.epochs(folder))
    study.note(setting=f"{config.pair}, {options.preset} preset")


def _train(study: Study, config: TransferConfig, part: Sequence[Run], inputs: None, callbacks: Callbacks) -> bool:
    return experiment.run_share(study, config, list(part), callbacks)


def _report(study: Study, config: TransferConfig) -> Page:
    from racecar.study.coarse_to_fine.report import page

    return page(study, config)


SPEC = StudySpec(
    name=experiment.NAME,
    description="coarse labels first, fine labels later: what racecar is good for (docs/plan.md)",
    config=TransferConfig,
    presets={
        "small": "decides one claim in minutes on 2 cores",
        "full": "as docs/plan.md has it",
        "quick": "a smoke test: no conclusions",
    },
    examples={"variants": "e.g. Std RR1 Dec1 Ort", "phases": "A for all tuning values, A-tuned for the chosen, B"},
    division=DIVISION,
    train=_train,
    report=_report,
    add_options=_add_options,
    chosen_by=("pair",),
    preset_file=_preset_file,
    label=lambda options: f"{options.pair}-{options.preset}",
    choose=_choose,
    prepare=_prepare,
)
