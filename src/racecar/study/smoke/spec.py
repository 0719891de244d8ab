"""The smoke study as a command; its pictures come from simulations, and from captures where they are at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from racecar.study.core.callbacks import Callbacks
from racecar.study.core.folder import Study
from racecar.study.core.schedule import ByCost
from racecar.study.core.variants import Run
from racecar.study.smoke import captures, dataset, experiment, frames
from racecar.study.smoke.config import SmokeConfig
from racecar.study.studies import StudySpec

if TYPE_CHECKING:
    from racecar.study.report import Page

DIVISION = ByCost(experiment.cost)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--simulations", type=str, default=".data/smoke", help="the folder that `racecar data smoke` has filled"
    )
    parser.add_argument(
        "--captures",
        type=str,
        default=None,
        help="real smoke for task B2: a folder of parquet or images, or a hub name; without it B2 and AB2 are left out",
    )


def _choose(config: SmokeConfig, options: Any, folder: Path) -> tuple[SmokeConfig, None]:
    """Without real smoke, what does not need it."""
    if options.captures is None and not (folder / "data-B2.safetensors").exists():
        config = dataclasses.replace(config, phases=[p for p in config.phases if "B2" not in p])
    return config, None


def _prepare(study: Study, config: SmokeConfig, options: Any, like: Study | None) -> None:
    total, done = DIVISION.work(study, config, config.runs())
    if done < total:
        _keep_data(study, config, options)
    study.note(setting=f"{options.preset} preset")


def _keep_data(study: Study, config: SmokeConfig, options: Any) -> None:
    """What the runs need and the folder does not hold yet."""
    sources = dict(study.metadata().get("sources", {}))
    if not experiment.has_data(study, "A"):
        simulations = dataset.load(Path(options.simulations))
        density = simulations.density
        kept = frames.of_simulations(density, config.train_share, config.test_frames)
        experiment.keep_data(study, "A", kept)
        sources["A and B1"] = (
            f"{len(density)} simulations of {density.shape[1]} frames at {density.shape[-1]} × {density.shape[-1]}; "
            f"{len(kept.train)} frames of {len(kept.train) // density.shape[1]} simulations train, {len(kept.test)} "
            "frames of the others test"
        )
        study.note(sources=sources)
    if any(r.task == "B2" for r in config.runs()) and not experiment.has_data(study, "B2"):
        real = captures.load(options.captures, config.capture_factor)
        kept = frames.of_captures(real.pixels, real.view, config.train_share, config.test_frames)
        experiment.keep_data(study, "B2", kept)
        height, width = real.pixels.shape[-2:]
        cameras = len(real.view.unique())
        sources["B2"] = (
            f"{real.words}; {height} × {width} pixels (h × w); {len(kept.train)} frames "
            f"{'of one camera' if cameras > 1 else ''} train, {len(kept.test)} "
            f"{f'of the other {cameras - 1}' if cameras > 1 else 'others'} test"
        ).replace("  ", " ")
        study.note(sources=sources)


def _train(study: Study, config: SmokeConfig, runs: Sequence[Run], inputs: None, callbacks: Callbacks) -> bool:
    return experiment.run_share(study, config, runs, callbacks)


def _report(study: Study, config: SmokeConfig) -> Page:
    from racecar.study.smoke.report import page

    return page(study, config)


SPEC = StudySpec(
    name=experiment.NAME,
    description="smoke: a super-resolution GAN, then auto-encoders: Table 6, Figures 8, 9, 18 to 21 (Section 5.3)",
    config=SmokeConfig,
    presets={"paper": "in full, for a GPU", "small": "an hour on 2 cores", "quick": "minutes"},
    examples={"variants": "e.g. Std RR6 StdC Dec6", "phases": "e.g. A B1 AB1 AB1-early"},
    division=DIVISION,
    train=_train,
    report=_report,
    add_options=_add_options,
    choose=_choose,
    prepare=_prepare,
)
