"""``racecar sweep``: a study once per λ, divided among processes here or jobs of a cluster, on one or more machines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from racecar.study.commands import study as study_command
from racecar.study.core.errors import StudyError
from racecar.study.core.locks import Locks, foreign
from racecar.study.core.presets import given
from racecar.study.core.processes import Stopper
from racecar.study.core.terminal import STOPPED, console, progress_bar, worker_count
from racecar.study.core.variants import START
from racecar.study.studies import registered, spec_of
from racecar.study.sweep import workers as engines
from racecar.study.sweep.drive import drive
from racecar.study.sweep.jobs import make_jobs
from racecar.study.sweep.results import SweepResults, check_folder, check_weights, has_weight
from racecar.study.sweep.workers import Engine, Processes, Submitted, Worker

EXAMPLE = "e.g. racecar sweep digits --weights 1e-6 1e-5"


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The options of the study, and of the sweep.

    Raises:
        ValueError: no such study, or a single λ beside those of the sweep.
    """
    if not argv:
        raise ValueError(f"name what to sweep: {_sweepable()}, {EXAMPLE}")
    made = ArgumentParser() if argv[0] in ("-h", "--help") else _parser_of(argv[0], argv)
    # Python 3.14's: before it, argparse takes -1e-5 for an option, and says nothing about λ.
    made._negative_number_matcher = re.compile(r"-\.?\d")  # type: ignore[attr-defined]
    made.description = "a study once per λ, on as many processes and machines as there are; tables and the best λ"
    made.add_argument("experiment", type=str, help=f"{_sweepable()}; EXPERIMENT --help lists its options too")
    made.add_argument(
        "--weights",
        nargs="+",
        type=float | str,  # inf is no number to jsonargparse: check_weights says what is wrong with it
        default=[],
        help="λ to sweep over; more may follow later",
    )
    made.add_argument(
        "--engine",
        type=Literal["local", "slurm", "submitit-local"],
        default="local",
        help="local: --workers processes here; slurm: --workers jobs (default: 4) through submitit, `pip install "
        "racecar-training[sweep]`; submitit-local: as slurm, but the jobs are processes here",
    )
    made.add_argument(
        "--slurm",
        type=dict[str, Any],
        default={},
        help='of submitit\'s executor, e.g. \'{"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 600}\'',
    )
    made.add_argument(
        "--criterion", type=str, default=None, help="phase whose accuracy chooses λ (default: AB, else AA, else A)"
    )
    made.add_argument("--table", action="store_true", help="train nothing, show what is there")
    return made


def _sweepable() -> str:
    return ", ".join(name for name in registered() if spec_of(name).weight is not None)


def _parser_of(name: str, argv: Sequence[str]) -> ArgumentParser:
    weight = spec_of(name).weight if name in registered() else None
    if weight is None:
        raise ValueError(f"no sweep of {name!r}; there are {_sweepable()}, {EXAMPLE}")
    # Asked for here, as argparse would take --weight for --weights where the study calls it something else.
    if any(value is not None for value in vars(given(argv, dict.fromkeys(("weight", weight)))).values()):
        raise ValueError("a sweep has no single λ: name them by --weights")
    return study_command.parser(name)


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing, show and write the tables."""
    spec = spec_of(options.experiment)
    folder = spec.folder(options, stem=f"sweep-{options.experiment}")
    if options.table:
        _show(folder, options.criterion)
        return 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or getattr(options, "shard", False):
        raise StudyError("a sweep divides its runs among --workers: start it plainly, without accelerate launch")
    weights = check_weights(options.weights)
    config, inputs = spec.choose(study_command.configuration(spec, parser, options), options, folder)
    if not any(map(has_weight, config.variants)):
        raise ValueError(f"none of {', '.join(config.variants)} has a λ: add RR or Dec to --variants, e.g. RR3")
    if not any(phase.startswith("A") and phase != START for phase in config.phases):
        raise ValueError(f"none of the phases {', '.join(config.phases)} depends on λ: add A to --phases")
    local = options.engine == "local"
    engines.check(options.engine)
    workers = worker_count(options.workers if local else options.workers or 4)
    check_folder(folder)
    folder = folder if local else folder.absolute()  # jobs may start anywhere
    locks = Locks(folder / "claims")
    for path in foreign(locks.folder)[:1]:
        console.print(
            f"racecar: {path} is no claim and is skipped; if {folder} is synchronised instead of shared, several "
            "machines may train the same run",
            highlight=False,
            soft_wrap=True,
        )

    def waiting() -> None:
        who = locks.state("preparing").holder or "another call"
        console.print(f"racecar: {who} is preparing this sweep; waiting for it", highlight=False, soft_wrap=True)

    with locks.hold("preparing", waiting):
        jobs = make_jobs(spec, config, inputs, weights, options, folder, locks)
    worker = Worker(locks.folder, jobs, int(options.slurm.get("cpus_per_task", 1)))
    engine: Engine = (
        Processes(worker)
        if local
        else Submitted(worker, folder / "jobs", options.engine.removeprefix("submitit-"), options.slurm)
    )
    work = {j.name: j.work() for j in jobs}
    total, done = (sum(column) for column in zip(*work.values(), strict=True))
    with Stopper() as stop, progress_bar(f"{sum(len(j.runs) for j in jobs)} {spec.unit}", total, done) as advance:
        complete = drive(engine, jobs, locks, workers, work, advance, stop)
    with locks.hold("preparing"):
        for study in {j.study.folder: j.study for j in jobs}.values():
            spent = sum(locks.seconds(j.name) for j in jobs if j.study is study)
            study.note(seconds=round(max(spent, study.metadata()["seconds"]), 1))
    _show(folder, options.criterion)
    if not complete and options.engine != "slurm":
        print(STOPPED, file=sys.stderr)
    return 0 if complete else 130


def _show(folder: Path, criterion: str | None) -> None:
    """Write the tables and print them."""
    results = SweepResults(folder, criterion)
    paths = results.write(folder)
    for title, header, rows in (
        (results.title, results.header, results.rows),
        ("", results.chosen_header, results.chosen),
    ):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    print(results.words)
    print(f"tables: {paths[0]}; the studies' own pages: racecar report {folder}")
