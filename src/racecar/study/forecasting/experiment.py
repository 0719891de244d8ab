"""Networks that forecast simulated smoke, and their errors: ``python -m racecar.study.forecasting.experiment``.

OUT/settings.json       what the folder was made with
OUT/NETWORK.json        what one finished network has measured; these are not trained again
OUT/NETWORK.safetensors its forecasts on B of a few test pairs, of seed 0, for the figure
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from racecar.errors import NonFiniteError, RacecarError
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.environment import environment, pasted, revision
from racecar.study.core.errors import DivergedError, Stopped, StudyError
from racecar.study.core.files import (
    is_number,
    is_object,
    is_text,
    read_object,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)
from racecar.study.core.processes import Advance, Stop, Stopper, run_shares
from racecar.study.core.schedule import Units
from racecar.study.core.sole import sole_use
from racecar.study.core.terminal import STOPPED, progress_bar, worker_count
from racecar.study.core.variants import Variant
from racecar.study.forecasting.config import QUICK, Config
from racecar.study.forecasting.data import Task, tasks
from racecar.study.forecasting.figures import examples, figure
from racecar.study.forecasting.report import text
from racecar.study.forecasting.results import CLAIMED, ForecastingResults, chosen, decisive_jobs, tuning_jobs
from racecar.study.forecasting.training import Job, train
from racecar.study.report.figures import png
from racecar.study.report.markdown import portable
from racecar.study.smoke import dataset


@dataclass(frozen=True)
class Share:
    """What one process trains.

    Attributes:
        simulations, out: folders.
        config: of the experiment.
        jobs: networks that are not finished.
    """

    simulations: Path
    out: Path
    config: Config
    jobs: tuple[Job, ...]


def train_share(share: Share, advance: Advance, stop: Stop) -> bool:
    """Train some networks; each is kept once it is finished. For :func:`racecar.study.core.processes.run_shares`."""
    known = load_tasks(share.simulations, share.config)
    code = revision()
    for job in share.jobs:
        work = job.work(share.config)
        units = Units(work, work, 0, advance)
        began = time.process_time()  # of this process alone: others may share the core
        try:
            found, model = train(job, known, share.config, Callbacks(advance=units, stop=stop))
        except Stopped:
            return False
        except (DivergedError, NonFiniteError) as error:
            units.finish()
            said: dict[str, Any] = {"diverged": str(error)}
        else:
            said = dict(found)
            if job.seed == 0 and not job.tuning:
                write_tensors(share.out / f"{job.name}.safetensors", examples(model, known["B"]))
        seconds = round(time.process_time() - began, 1)
        write_json(share.out / f"{job.name}.json", said | {"seconds": seconds, "revision": code})
    return True


def load_tasks(simulations: Path, config: Config) -> dict[str, Task]:
    """Tasks A and B of a folder of simulations."""
    return tasks(dataset.load(simulations).density, config)


def open_folder(out: Path, config: Config, simulations: Path) -> dict[str, Any]:
    """Begin a folder, or go on with one of the same settings and simulations.

    Returns:
        The content of settings.json.

    Raises:
        StudyError: it holds something else.
    """
    described = dataset.description(simulations)
    known = {k: described[k] for k in ("settings", "seed", "count")}
    wanted = {"config": asdict(config) | {"variants": list(config.variants)}, "simulations": known}
    path = out / "settings.json"
    if not path.exists():
        if out.exists() and any(out.glob("*.json")):
            raise StudyError(f"{out} holds something else: choose another --out")
        write_json(path, wanted | {"environment": environment()})
    content: dict[str, Any] = read_object(
        path, "a forecasting experiment", {"config": is_object, "simulations": is_object, "environment": is_object}
    )
    if any(content[k] != wanted[k] for k in wanted):
        raise StudyError(f"{out} holds an experiment of other settings or simulations: choose another --out")
    return content


def finished(out: Path, jobs: Sequence[Job]) -> dict[Job, dict[str, Any]]:
    """What finished networks have measured."""
    outcomes = dict.fromkeys(("A", "AB", "probe", "B", "weight"), is_number)
    also = outcomes | {"diverged": is_text}
    paths = {job: path for job in jobs if (path := out / f"{job.name}.json").exists()}
    wanted = {"seconds": is_number, "revision": is_text}
    return {
        j: read_object(p, "a network", wanted, also, "delete it to train it again")
        for j, p in paths.items()
        if p.exists()
    }


def run(simulations: Path, out: Path, config: Config, workers: int, stop: Stop) -> ForecastingResults | None:
    """Train every network that is not finished: first those that tuning values are chosen by, then the decisive ones.

    Returns:
        The results; None where it was stopped.
    """
    known = load_tasks(simulations, config)  # what is wrong with the simulations is said before a network is trained
    found: dict[Job, dict[str, Any]] = {}
    for label in ("tuning", "decisive"):
        jobs = tuning_jobs(config) if label == "tuning" else decisive_jobs(config, chosen(config, found))
        found |= finished(out, jobs)
        left = [j for j in jobs if j not in found]
        if left:
            shares = [Share(simulations, out, config, tuple(left[i::workers])) for i in range(min(workers, len(left)))]
            total, rest = (sum(j.work(config) for j in some) for some in (jobs, left))
            with progress_bar(f"{len(jobs)} {label} networks", total, total - rest) as advance:
                if not run_shares(train_share, shares, advance, stop):
                    return None
            found |= finished(out, jobs)
    on_test = {name: task.test.persistence for name, task in known.items()}
    on_validation = {name: task.validation.persistence for name, task in known.items()}
    return ForecastingResults(config, found, on_test, on_validation)


def pictures(results: ForecastingResults, out: Path) -> bytes | None:
    """The figure of seed 0 as PNG: Std, Pre and the candidate; None where none of them is there."""
    shown = [v for v in results.variants if v.name in CLAIMED or v == results.candidate]
    paths = {v.label: out / f"{Job(v, results.values[v.name], 0).name}.safetensors" for v in shown}
    known = {label: read_tensors(path) for label, path in paths.items() if path.exists()}
    return png(figure(known)) if known else None


def _config(options: argparse.Namespace) -> Config:
    config = QUICK if options.quick else Config()
    changes: Mapping[str, Any] = {
        "variants": options.variants and tuple(Variant.parse(v).name for v in options.variants),
        "seeds": options.seeds,
        "steps_a": options.steps,
        "steps_b": options.steps and max(1, options.steps // 3),
    }
    return replace(config, **{k: v for k, v in changes.items() if v is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=Path, default=Path(".data/smoke32"), help="of `racecar data smoke`")
    parser.add_argument("--out", type=Path, default=Path("runs/forecasting"), help="where finished networks are kept")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="on A; a third of it on B")
    parser.add_argument("--variants", nargs="+", default=None)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core, two at most)")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works")
    parser.add_argument("--table", type=Path, default=None, help="write the table here, and its figure beside it")
    options = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    command = portable(pasted(["python", "-m", "racecar.study.forecasting.experiment", *given]))
    try:
        config = _config(options)
        workers = worker_count(options.workers)
        settings = open_folder(options.out, config, options.simulations)
        with sole_use(options.out), Stopper() as stop:
            results = run(options.simulations, options.out, config, workers, stop)
        if results is None:
            print(STOPPED, file=sys.stderr)
            return 130
        drawn = options.table and pictures(results, options.out)
        written = text(results, settings, command, f"{options.table.stem}.png" if drawn else None)
        print(written)
        if options.table is not None:
            write_text(options.table, written)
        if drawn:
            write_bytes(options.table.with_suffix(".png"), drawn)
    except (StudyError, RacecarError, ValueError) as error:
        print(f"forecasting: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
