"""``racecar study smoke`` (Section 5.3)."""

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
from racecar.study.core.folder import Study
from racecar.study.core.processes import Advance, Stop
from racecar.study.core.terminal import apply_preset, worker_count
from racecar.study.core.variants import Run
from racecar.study.smoke import captures, dataset, experiment, frames
from racecar.study.smoke.config import PRESETS, SmokeConfig


def parser(words: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    found = ArgumentParser(
        description="smoke: a super-resolution GAN, then auto-encoders: Table 6, Figures 8, 9, 18 to 21 (Section 5.3)"
    )
    found.add_argument("--config", action="config", help="YAML file with any of the options below")
    found.add_argument(
        "--preset",
        type=Literal["paper", "small", "quick"],
        default="paper",
        help="paper: in full, for a GPU; small: an hour on 2 cores; quick: minutes",
    )
    found.add_argument(
        "--simulations", type=str, default=".data/smoke", help="the folder that `racecar data smoke` has filled"
    )
    found.add_argument(
        "--captures",
        type=str,
        default=None,
        help="real smoke for task B2: a folder of parquet or images, or a hub name; without it B2 and AB2 are left out",
    )
    found.add_argument("--out", type=str, default=None, help="folder (default: runs/smoke-PRESET)")
    found.add_argument(
        "--workers", type=int, default=None, help="processes (default: 1 on a GPU, else one per core, two at most)"
    )
    defaults = SmokeConfig()
    found.add_argument("--variants", nargs="+", type=str, default=defaults.variants, help="e.g. Std RR6 StdC Dec6")
    found.add_argument("--phases", nargs="+", type=str, default=defaults.phases, help="e.g. A B1 AB1 AB1-early")
    found.add_class_arguments(SmokeConfig, skip={"variants", "phases"})
    apply_preset(found, words, PRESETS, "paper")
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    names = {f.name for f in dataclasses.fields(SmokeConfig)}
    config = SmokeConfig(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    folder = Path(options.out or f"runs/smoke-{options.preset}")
    if options.captures is None and not (folder / "data-B2.safetensors").exists():
        config = dataclasses.replace(config, phases=[p for p in config.phases if "B2" not in p])
    workers = worker_count(options.workers)
    study = experiment.open_study(folder, config)
    study.add_command()
    planned, cost = config.runs(), partial(experiment.cost, config)
    work = division.work(study, planned, cost)
    if work[1] < work[0]:
        _keep_data(study, config, planned, options)
    study.note(setting=f"{options.preset} preset")
    growing.remember(study, config)
    shares = [(folder, config, chain) for chain in division.chains(planned, cost, workers)]
    return carry_out(study, f"{len(planned)} networks", work, _train, shares)


def _keep_data(study: Study, config: SmokeConfig, planned: Sequence[Run], options: Namespace) -> None:
    """What the runs need and the folder does not hold yet."""
    sources = dict(study.about().get("sources", {}))
    if not experiment.has_data(study, "A"):
        simulations = dataset.load(Path(options.simulations))
        density = simulations.density
        found = frames.of_simulations(density, config.train_share, config.test_frames)
        experiment.keep_data(study, "A", found)
        sources["A and B1"] = (
            f"{len(density)} simulations of {density.shape[1]} frames at {density.shape[-1]} × {density.shape[-1]}; "
            f"{len(found.train)} frames of {len(found.train) // density.shape[1]} simulations train, {len(found.test)} "
            "frames of the others test"
        )
        study.note(sources=sources)
    if any(r.task == "B2" for r in planned) and not experiment.has_data(study, "B2"):
        real = captures.load(options.captures, config.capture_factor)
        found = frames.of_captures(real.pixels, real.view, config.train_share, config.test_frames)
        experiment.keep_data(study, "B2", found)
        height, width = real.pixels.shape[-2:]
        cameras = len(real.view.unique())
        sources["B2"] = (
            f"{real.words}; {height} × {width} pixels (h × w); {len(found.train)} frames "
            f"{'of one camera' if cameras > 1 else ''} train, {len(found.test)} "
            f"{f'of the other {cameras - 1}' if cameras > 1 else 'others'} test"
        ).replace("  ", " ")
        study.note(sources=sources)


def _train(share: tuple[Path, SmokeConfig, list[Run]], advance: Advance, stop: Stop) -> bool:
    folder, config, chain = share
    return experiment.run_share(experiment.open_study(folder, config), config, chain, Callbacks(advance, stop=stop))
