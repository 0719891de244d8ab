"""``racecar study NAME``, whichever study it is: train what is missing, write the report."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from racecar.study.commands.report import report_on
from racecar.study.core.accelerator import make_accelerator
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.presets import PresetParser
from racecar.study.core.processes import Stopper, run_shares
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import STOPPED, progress_bar, worker_count
from racecar.study.studies import ReadyStudy, StudySpec, presets_of, spec_of, train_part


def parser(name: str, argv: Sequence[str] = ()) -> PresetParser:
    """The command's options: those of every study, the study's own, and its settings."""
    spec, presets = spec_of(name), presets_of(name)
    made = PresetParser(
        description=spec.description,
        presets=lambda options: presets / f"{spec.preset_file(options)}.yaml",
        chosen_by=("preset", *spec.chosen_by),
    )
    made.add_argument("--config", action="config", help="YAML file with any of the options below")
    made.add_argument(
        "--preset",
        type=Literal[tuple(spec.presets)],
        default=next(iter(spec.presets)),
        help="; ".join(f"{preset}: {what}" for preset, what in spec.presets.items()),
    )
    spec.add_options(made)
    made.add_argument("--out", type=str, default=None, help=f"folder (default: {spec.folder(_Placeholders())})")
    made.add_argument(
        "--workers", type=int, default=None, help="processes (default: 1 on a GPU, else one per core, two at most)"
    )
    if spec.together is not None:
        made.add_argument(
            "--shard",
            action="store_true",
            help="under accelerate launch: divide weights, gradients and moments among the processes (FSDP2)",
        )
    defaults = spec.config()
    for setting, example in spec.examples.items():
        made.add_argument(f"--{setting}", nargs="+", type=str, default=getattr(defaults, setting), help=example)
    made.add_class_arguments(spec.config, skip=set(spec.examples))
    return made


class _Placeholders:
    """Options whose values are their own names, for the help."""

    out = None

    def __getattr__(self, name: str) -> str:
        return name.upper()


def configuration(spec: StudySpec, parser: ArgumentParser, options: Namespace) -> Any:
    """The settings that the options say, as :attr:`StudySpec.config`.

    Raises:
        ValueError: they do not go together.
    """
    names = {f.name for f in dataclasses.fields(spec.config)}
    return spec.config(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})


def preset(name: str, *argv: str) -> Any:
    """The configuration of a study as a command line would have it.

    Args:
        name: of the study.
        argv: options, e.g. ``"--preset", "small"``.
    """
    made = parser(name)
    return configuration(spec_of(name), made, made.parse_args(argv))


def run(name: str, parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing and write the report."""
    spec = spec_of(name)
    folder = spec.folder(options)
    if (folder.absolute().parent / "sweep.json").exists():
        raise StudyError(f"{folder} is a part of a sweep, whose workers may train there: call `racecar sweep` instead")
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if started and spec.together is None:
        raise StudyError("this study divides its runs among --workers: start it plainly, without accelerate launch")
    config, inputs = spec.choose(configuration(spec, parser, options), options, folder)
    if started:
        return _train_together(spec, folder, config, inputs, options)
    if getattr(options, "shard", False):
        raise ValueError("--shard divides a network among processes: start them by accelerate launch or torchrun")
    workers = worker_count(options.workers)
    return _train(spec.ready(folder, config, inputs, options), workers)


def _train(ready: ReadyStudy, workers: int) -> int:
    """What is missing, in so many processes; the exit code."""
    study = ready.study
    with sole_use(study.folder):
        study.remove_leftovers()
        started = time.monotonic()
        complete = True
        if not all(study.finished(run) for run in ready.runs):
            parts = [(ready, runs) for runs in ready.parts(workers)]
            with Stopper() as stop, progress_bar(f"{len(ready.runs)} {ready.spec.unit}", *ready.work()) as advance:
                complete = run_shares(train_part, parts, advance, stop)
            study.add_seconds(time.monotonic() - started)
        found = report_on(study.folder)
    if not complete:
        print(STOPPED, file=sys.stderr)
        return 130
    print(found)
    return 0


def _train_together(spec: StudySpec, folder: Path, config: Any, inputs: Any, options: Namespace) -> int:
    """Every run in turn, by all processes that ``accelerate launch`` or ``torchrun`` has started; the exit code."""
    assert spec.together is not None
    accelerator = make_accelerator()
    main = accelerator.is_main_process
    ready = spec.ready(folder, config, inputs, options) if main else None
    held = ExitStack()
    if ready is not None:
        held.enter_context(sole_use(folder))
        ready.study.remove_leftovers()
    accelerator.wait_for_everyone()
    shown = (
        progress_bar(f"{len(ready.runs)} {spec.unit}", *ready.work())
        if ready is not None
        else nullcontext(lambda units: None)
    )
    started = time.monotonic()
    with held, Stopper() as stop, shown as advance:
        study = spec.open(folder, config)
        complete = spec.together(study, config, config.runs(), inputs, Callbacks(advance, stop=stop), options.shard)
    if ready is not None:
        ready.study.add_seconds(time.monotonic() - started)
        print(STOPPED if not complete else report_on(folder), file=sys.stderr if not complete else None)
    accelerator.end_training()
    return 0 if complete else 130
