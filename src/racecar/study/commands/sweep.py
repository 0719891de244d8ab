"""``racecar sweep``: a study once per λ, divided among processes here or jobs of a cluster, on one or more machines."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from racecar.study.commands.carry_out import Prepared
from racecar.study.core.errors import StudyError
from racecar.study.core.processes import Advance, Stop, Stopper
from racecar.study.core.terminal import STOPPED, console, progress_bar, worker_count
from racecar.study.sweep import workers as engines
from racecar.study.sweep.locks import Locks
from racecar.study.sweep.results import SweepResults, check_folder, check_weights, has_weight, open_sweep, study_name
from racecar.study.sweep.workers import Engine, Job, Processes, Submitted, Worker

EXPERIMENTS = ("mutual-information", "digits", "cifar", "vgg")  # that have a λ, and accuracies
MOST_KILLED = 3  # workers without a run finished in between: then it is not bad luck


class _Kind(NamedTuple):
    """What a sweep needs of a study's command."""

    parser: Callable[[Sequence[str]], ArgumentParser]
    config: Callable[[ArgumentParser, Namespace], Any]
    folder: Callable[..., Path]
    prepare: Callable[..., Prepared]


def _kind(experiment: str) -> _Kind:
    # Imported here: one study does not need what the others do, and a sweep starts many processes.
    if experiment == "mutual-information":
        from racecar.study.commands import mutual_information as command

        return _Kind(command.parser, command.config_of, command.folder_of, command.prepare)
    from racecar.study.commands import classification

    return _Kind(
        getattr(classification, f"{experiment}_parser"),
        partial(classification.config_of, experiment),
        partial(classification.folder_of, experiment),
        partial(classification.prepare, experiment),
    )


def parser(words: Sequence[str]) -> ArgumentParser:
    """The options of the study, and of the sweep.

    Raises:
        ValueError: no such study, a λ that is none, or a single λ beside them.
    """
    known = ", ".join(EXPERIMENTS)
    if words and words[0] not in (*EXPERIMENTS, "-h", "--help"):
        raise ValueError(f"no sweep of {words[0]!r}; there are {known}, e.g. racecar sweep digits --weights 1e-6 1e-5")
    if not words:
        raise ValueError(f"name what to sweep: {known}, e.g. racecar sweep digits --weights 1e-6 1e-5")
    if any(w.partition("=")[0] in ("--weight", "--training.weight") for w in words):
        raise ValueError("a sweep has no single λ: name them by --weights")
    for word in words[words.index("--weights") + 1 :] if "--weights" in words else ():
        try:  # argparse takes -1e-5 for an option
            check_weights([float(word)])
        except ValueError:
            if word.startswith("-") and not word[1:2].isdigit():
                break
            raise
    found = _kind(words[0]).parser(words[1:]) if words[0] in EXPERIMENTS else ArgumentParser()
    found.description = "a study once per λ, on as many processes and machines as there are; tables and the best λ"
    found.add_argument("experiment", type=str, help=f"{known}; EXPERIMENT --help lists its options too")
    found.add_argument("--weights", nargs="+", type=float, default=[], help="λ to sweep over; more may follow later")
    found.add_argument(
        "--engine",
        type=Literal["local", "slurm", "submitit-local"],
        default="local",
        help="local: --workers processes here; slurm: --workers jobs (default: 4) through submitit, `pip install "
        "racecar-training[sweep]`; submitit-local: as slurm, but the jobs are processes here",
    )
    found.add_argument(
        "--slurm",
        type=dict[str, Any],
        default={},
        help='of submitit\'s executor, e.g. \'{"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 600}\'',
    )
    found.add_argument(
        "--criterion", type=str, default=None, help="phase whose accuracy chooses λ (default: AB, else AA, else A)"
    )
    found.add_argument("--table", action="store_true", help="train nothing, show what is there")
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Train what is missing, show and write the tables."""
    kind = _kind(options.experiment)
    folder = kind.folder(options, stem=f"sweep-{options.experiment}")
    if options.table:
        _show(folder, options.criterion)
        return 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or getattr(options, "shard", False):
        raise StudyError("a sweep divides its runs among --workers: start it plainly, without accelerate launch")
    weights, config = check_weights(options.weights), kind.config(parser, options)
    if not any(map(has_weight, config.variants)):
        raise ValueError(f"none of {', '.join(config.variants)} has a λ: add RR or Dec to --variants, e.g. RR3")
    local = options.engine == "local"
    engines.check(options.engine)
    workers = worker_count(options.workers if local else options.workers or 4)
    check_folder(folder)
    folder = folder if local else folder.absolute()  # jobs may start anywhere
    claims = Locks(folder / "claims")
    with claims.hold("preparing", lambda: console.print("racecar: another call is preparing this sweep; waiting")):
        tasks = _tasks(kind, config, weights, options, folder, claims)
    worker = Worker(claims.folder, tasks, int(options.slurm.get("cpus_per_task", 1)))
    engine: Engine = (
        Processes(worker)
        if local
        else Submitted(worker, folder / "jobs", options.engine.removeprefix("submitit-"), options.slurm)
    )
    work = {t.name: t.work(t.runs) for t in tasks}
    total, done = (sum(column) for column in zip(*work.values(), strict=True))
    with Stopper() as stop, progress_bar(f"{sum(len(t.runs) for t in tasks)} networks", total, done) as advance:
        complete = _drive(engine, tasks, claims, workers, work, advance, stop)
    with claims.hold("preparing"):
        for study in {t.study.folder: t.study for t in tasks}.values():
            spent = sum(claims.seconds(t.name) for t in tasks if t.study is study)
            study.note(seconds=round(max(spent, study.about()["seconds"]), 1))
    _show(folder, options.criterion)
    if not complete and options.engine != "slurm":
        print(STOPPED, file=sys.stderr)
    return 0 if complete else 130


def _tasks(
    kind: _Kind, config: Any, weights: Sequence[float], options: Namespace, folder: Path, claims: Locks
) -> list[Job]:
    """Open all studies; what there is to train, low seeds of all λ first."""
    settings = dataclasses.asdict(_with(config, config.variants, 0.0))
    phases = settings.pop("phases", ["A", "B", "AA", "AB"])
    variants = list(dict.fromkeys(_with(config, config.variants, 0.0).variants))
    asked = {"weights": weights, "variants": variants, "phases": phases, "seeds": settings.pop("seeds")}
    del settings["variants"]
    open_sweep(folder, options.experiment, settings, asked)
    plain = [v for v in variants if not has_weight(v)]
    wanted: list[tuple[float | None, list[str]]] = [(None, plain)] if plain else []
    wanted += [(w, [v for v in variants if has_weight(v)]) for w in weights]
    tasks: list[Job] = []
    first: Prepared | None = None
    others = [claims.state(p.name) for p in claims.folder.glob("*") if p.name != "preparing"]
    alone = all(state.open or state.finished for state in others)
    for weight, names in wanted:
        own, name = _with(config, names, weight or 0.0), study_name(weight)
        found = kind.prepare(own, options, folder / name, like=first.study if first is not None else None)
        first = first or found
        if alone:
            found.study.remove_leftovers()
        tasks += [
            Job(f"{name}-{runs[0].key.replace('/', '-')}", found.study, runs, found.share, argument, found.work)
            for runs, argument in found.divide(len(found.runs))
        ]
    for task in tasks:
        if not task.finished and claims.state(task.name).finished:  # more seeds or phases, or results were deleted
            claims.reopen(task.name)
    return sorted(tasks, key=lambda t: t.runs[0].seed)


def _with(config: Any, variants: Sequence[str], weight: float) -> Any:
    """A study's configuration with another λ."""
    from racecar.study.core.variants import Variant

    changed: dict[str, Any] = {"variants": [Variant.parse(v).name for v in variants]}
    if hasattr(config, "training"):
        return dataclasses.replace(config, **changed, training=dataclasses.replace(config.training, weight=weight))
    return dataclasses.replace(config, **changed, weight=weight)


def _drive(
    engine: Engine,
    tasks: Sequence[Job],
    claims: Locks,
    workers: int,
    work: dict[str, tuple[int, int]],
    advance: Advance,
    stop: Stop,
) -> bool:
    """Keep as many workers as there is work for; whether all is finished.

    Raises:
        StudyError: a worker failed, or one after the other was killed.
    """
    killed, before = 0, len(tasks)
    shown = sum(done for _, done in work.values())
    try:
        while True:
            pending = [t for t in tasks if not t.finished]
            states = {t.name: claims.state(t.name) for t in pending}
            now = sum(total for total, _ in work.values())
            for name, state in states.items():
                now += (state.done if state.number >= 0 else work[name][1]) - work[name][0]
            advance(now - shown)
            shown = now
            if not pending:
                engine.finish()
                return True
            if stop():
                _end(engine)
                return False
            killed, before = (killed, before) if len(pending) == before else (0, len(pending))
            living, lost = engine.count()
            if lost:
                killed += lost
                console.print("racecar: a worker was killed; what it had not finished is taken over")
            if killed > MOST_KILLED:
                raise StudyError(
                    f"{killed} workers were killed and no run was finished in between (out of memory?); finished runs "
                    "are kept"
                )
            free = sum(s.open for s in states.values())
            idle = max(0, living - (len(states) - free))  # started, and on the way to their first claim
            for _ in range(min(workers - living, free - idle)):
                engine.start()
            time.sleep(0.3)
    except BaseException:
        _end(engine)
        raise


def _end(engine: Engine) -> None:
    if words := engine.stop():
        console.print(words, markup=False, highlight=False, soft_wrap=True)


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
