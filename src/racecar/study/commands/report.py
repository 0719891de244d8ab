"""``racecar report``: report.html of studies on disk, and their numbers for a repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_json

if TYPE_CHECKING:
    from racecar.study.report import Page


def parser(words: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    found = ArgumentParser(description="write report.html from the finished runs of studies")
    found.add_argument("runs", nargs="+", type=str, help="study folders, or a folder that holds some")
    found.add_argument("--results", type=str, default=None, help="folder for tables (Markdown) and figures (PNG)")
    return found


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Write them."""
    for name in options.runs:
        for folder in _studies(Path(name)):
            print(f"report: {write_report(folder)}")
            if options.results is not None:
                for path in _reporter(folder)[1](Path(options.results)):
                    print(f"results: {path}")
    return 0


def write_report(folder: Path) -> Path:
    """The page of one study, whichever it is."""
    from racecar.study.report import write

    return write(_reporter(folder)[0](), folder / "report.html")


def _reporter(folder: Path) -> tuple[Callable[[], Page], Callable[[Path], list[Path]]]:
    """What makes the page of a study, and what writes its results into a folder."""
    # Imported here: training processes import the commands and need neither matplotlib nor scipy.
    name = read_json(folder / "study.json").get("experiment")
    if name == "mutual-information":
        from racecar.study.mutual_information import experiment, report

        opened = experiment.reopen(folder)
        return partial(report.page, *opened), partial(report.write_results, *opened)
    if name == "smoke":
        from racecar.study.smoke import experiment as smoke
        from racecar.study.smoke import report as smoke_report

        kept = smoke.reopen(folder)
        return partial(smoke_report.page, *kept), partial(smoke_report.write_results, *kept)
    if name == "stylize":
        from racecar.study.stylize import experiment as stylize
        from racecar.study.stylize import report as stylize_report

        done = stylize.reopen(folder)
        return partial(stylize_report.page, *done), partial(stylize_report.write_results, *done)
    if name in ("digits", "cifar", "vgg"):
        from racecar.study.classification.experiment import experiment_of, reopen
        from racecar.study.classification.report import page, write_results

        which = experiment_of(name)
        study, config = reopen(folder, which)
        return partial(page, study, which, config), partial(write_results, study, which, config)
    raise StudyError(f"{folder} holds the study {name!r}, which this version cannot report")


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or the studies directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    found = [p.parent for p in sorted([folder / "study.json", *folder.glob("*/study.json")]) if p.exists()]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found
