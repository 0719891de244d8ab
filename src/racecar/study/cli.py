"""The ``racecar`` command: ``study``, ``report`` and ``explain``. One clear line for every error of the user's."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

import racecar
from racecar.study.mutual_information import experiment as mutual_information
from racecar.study.mutual_information.config import PRESETS, Config
from racecar.study.runs import StudyError
from racecar.study.workers import Advance, Stop, Stopper, run_shares

console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 wrong input, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[tuple[str, ...], tuple[Callable[[], ArgumentParser], Callable[..., int]]] = {
        ("study", "mutual-information"): (_mutual_information_parser, _study),
        ("report",): (_report_parser, _report),
        ("explain",): (_explain_parser, _explain),
    }
    for name, (make, run) in commands.items():
        if tuple(words[: len(name)]) == name:
            parser = make()
            parser.prog = " ".join(("racecar", *name))
            parser.usage = f"{parser.prog} [options]; --help lists them"
            _apply_preset(parser, words)
            options = parser.parse_args(words[len(name) :])
            return _guarded(lambda: run(parser, options))  # noqa: B023
    known = "".join(f"\n  racecar {' '.join(name):24} {make().description}" for name, (make, _) in commands.items())
    if words in (["-h"], ["--help"]):
        print(f"usage:{known}\n\nEvery command has --help.")
        return 0
    print(f"racecar: no command {' '.join(words) or '(none given)'!r}; there are{known}", file=sys.stderr)
    return 2


def _guarded(run: Callable[[], int]) -> int:
    """Errors of the user's as one line."""
    try:
        return run()
    except (StudyError, racecar.RacecarError, ValueError, OSError) as error:
        print(f"racecar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("racecar: interrupted", file=sys.stderr)
        return 130


def _mutual_information_parser() -> ArgumentParser:
    parser = ArgumentParser(description="the 12-bit task: Tables 1 and 2, Figures 2, 3, 4, 14 (Section 4)")
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--preset", type=Literal["paper", "quick"], default="paper", help="quick: under 20 seconds")
    parser.add_argument(
        "--out", type=str, default=None, help="folder (default: runs/mutual-information-PRESET-PROTOCOL)"
    )
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core, two at most)")
    parser.add_argument("--variants", nargs="+", type=str, default=Config().variants, help="e.g. Std Ort RR1 RR6")
    parser.add_class_arguments(Config, skip={"variants"})
    return parser


def _report_parser() -> ArgumentParser:
    parser = ArgumentParser(description="write report.html from the finished runs of studies")
    parser.add_argument("runs", nargs="+", type=str, help="study folders, or a folder that holds some")
    parser.add_argument("--results", type=str, default=None, help="folder for tables (Markdown) and figures (PNG)")
    return parser


def _explain_parser() -> ArgumentParser:
    parser = ArgumentParser(description="print the palindrome of a model")
    parser.add_argument("model", type=str, help="timm:NAME, torchvision:NAME or module:NAME of a class or function")
    parser.add_argument("--input", type=str, default="3,224,224", help="shape of one sample, e.g. 3,32,32")
    parser.add_argument("--layers", type=str, default=None, help="conv, all, an integer s (RR^s) or names with commas")
    parser.add_argument("--start", type=str, default=None, help="module at whose output the reverse pass starts")
    return parser


def _apply_preset(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """A preset changes defaults, so that a configuration file and options still win over it."""
    for i, argument in enumerate(arguments):
        name = argument.removeprefix("--preset=") if argument.startswith("--preset=") else None
        if argument == "--preset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        if name in PRESETS and parser.get_defaults().get("preset") is not None:
            parser.set_defaults(PRESETS[name])


# --- study ------------------------------------------------------------------------------------------------------------


def _study(parser: ArgumentParser, options: Namespace) -> int:
    names = {f.name for f in dataclasses.fields(Config)}
    config = Config(**{k: v for k, v in parser.instantiate(options).as_dict().items() if k in names})
    folder = Path(options.out or f"runs/mutual-information-{options.preset}-{config.protocol}")
    if options.workers is not None and options.workers < 1:
        raise StudyError(f"--workers must be at least 1, not {options.workers}")
    workers = options.workers or min(2, os.cpu_count() or 1)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    study = mutual_information.open_study(folder, config)
    mutual_information.remember(study, config)
    shares = [
        (folder, dataclasses.replace(config, variants=share)) for share in mutual_information.parts(config, workers)
    ]
    started = time.monotonic()
    total, done = mutual_information.total_epochs(study, config)
    complete = True
    if done < total:
        with (
            Stopper() as stop,
            _progress(f"{len(mutual_information.runs_of(config))} networks", total, done) as advance,
        ):
            complete = run_shares(_train, shares, advance, stop)
        study.add_seconds(time.monotonic() - started)
    path = _write_report(folder)
    if not complete:
        print("racecar: stopped; what is done is kept and the same command goes on from here", file=sys.stderr)
        return 130
    print(f"report: {path}")
    return 0


def _train(share: tuple[Path, Config], advance: Advance, stop: Stop) -> bool:
    folder, config = share
    return mutual_information.run_study(
        mutual_information.open_study(folder, config), config, advance=advance, stop=stop
    )


@contextmanager
def _progress(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda n: progress.update(task, advance=n)


# --- report -----------------------------------------------------------------------------------------------------------


def _report(parser: ArgumentParser, options: Namespace) -> int:
    from racecar.study.mutual_information.report import write_results

    for name in options.runs:
        for folder in _studies(Path(name)):
            print(f"report: {_write_report(folder)}")
            if options.results is not None:
                for path in write_results(*mutual_information.reopen(folder), Path(options.results)):
                    print(f"results: {path}")
    return 0


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or the studies directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    found = [p.parent for p in sorted([folder / "study.json", *folder.glob("*/study.json")]) if p.exists()]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found


def _write_report(folder: Path) -> Path:
    # Imported here: the training processes import this file and need neither matplotlib nor scipy.
    from racecar.study.mutual_information.report import page
    from racecar.study.report import write

    study, config = mutual_information.reopen(folder)
    return write(page(study, config), folder / "report.html")


# --- explain ----------------------------------------------------------------------------------------------------------


def _explain(parser: ArgumentParser, options: Namespace) -> int:
    model, layers = options.model, options.layers
    try:
        shape = [int(n) for n in options.input.split(",")]
    except ValueError as error:
        raise ValueError(f"--input {options.input!r} is not a shape: use numbers with commas, e.g. 3,32,32") from error
    chosen: Any = layers
    if layers is not None and layers.isdigit():
        chosen = int(layers)
    elif layers is not None and layers not in ("conv", "all"):
        chosen = layers.split(",")
    rr = racecar.Racecar(_model(model), torch.zeros(2, *shape), layers=chosen, start=options.start)
    explanation = rr.explain()
    table = Table(title=f"The palindrome of {model}")
    for column in explanation.columns:
        table.add_column(column, overflow="fold")
    for step, row in zip(explanation.steps, explanation.rows(), strict=True):
        table.add_row(*row, style="" if step.mirrored else "dim")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(explanation.footer())
    return 0


def _model(name: str) -> nn.Module:
    """Build a model from timm:NAME, torchvision:NAME or module:NAME, with random weights."""
    source, separator, what = name.partition(":")
    if not separator:
        raise ValueError(f"{name!r} is not a model: use timm:NAME, torchvision:NAME or module:NAME")
    if source in ("timm", "torchvision"):
        try:
            library = importlib.import_module("timm" if source == "timm" else "torchvision.models")
        except ImportError as error:
            raise ValueError(f"{name}: {source} is not installed (pip install {source})") from error
        make = library.create_model if source == "timm" else library.get_model
        try:
            return make(what)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{source} has no model {what!r}: {error}") from error
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(source), what)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    built = found if isinstance(found, nn.Module) else found()
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} is not a torch.nn.Module but {type(built).__name__}")
    return built


if __name__ == "__main__":
    sys.exit(main())
