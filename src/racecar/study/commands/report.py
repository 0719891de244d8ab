"""``racecar report``: report.html of studies on disk, and their numbers for a repository."""

from __future__ import annotations

from collections.abc import Sequence
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
    from racecar.study.report import write, write_results

    for name in options.runs:
        for folder in _studies(Path(name)):
            page = page_of(folder)
            print(f"report: {write(page, folder / 'report.html')}")
            if options.results is not None:
                for path in write_results(page, Path(options.results)):
                    print(f"results: {path}")
    return 0


def write_report(folder: Path) -> Path:
    """Write report.html into a study's folder, whichever study it is."""
    from racecar.study.report import write

    return write(page_of(folder), folder / "report.html")


def page_of(folder: Path) -> Page:
    """The report of the study in a folder, whichever it is.

    Raises:
        StudyError: this version has no such study.
    """
    # Imported here: training processes import the commands and need neither matplotlib nor scipy.
    name = read_json(folder / "study.json").get("experiment")
    if name == "mutual-information":
        from racecar.study.mutual_information import experiment, report

        return report.page(*experiment.reopen(folder))
    if name == "smoke":
        from racecar.study.smoke import experiment as smoke
        from racecar.study.smoke import report as smoke_report

        return smoke_report.page(*smoke.reopen(folder))
    if name == "stylize":
        from racecar.study.stylize import experiment as stylize
        from racecar.study.stylize import report as stylize_report

        return stylize_report.page(*stylize.reopen(folder))
    if name in ("digits", "cifar", "vgg"):
        from racecar.study.classification.experiment import experiment_of, reopen
        from racecar.study.classification.report import page

        which = experiment_of(name)
        study, config = reopen(folder, which)
        return page(study, which, config)
    raise StudyError(f"{folder} holds the study {name!r}, which this version cannot report")


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or the studies directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    found = [p.parent for p in sorted([folder / "study.json", *folder.glob("*/study.json")]) if p.exists()]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found
