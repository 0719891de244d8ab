"""``racecar report``: report.html of studies on disk, and their numbers for a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from racecar.study.runs import StudyError, read_json


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
                for path in _write_results(folder, Path(options.results)):
                    print(f"results: {path}")
    return 0


def write_report(folder: Path) -> Path:
    """The page of one study, whichever it is."""
    # Imported here: training processes import the commands and need neither matplotlib nor scipy.
    from racecar.study.report import write

    name = _experiment(folder)
    if name == "mutual-information":
        from racecar.study.mutual_information import experiment
        from racecar.study.mutual_information.report import page

        return write(page(*experiment.reopen(folder)), folder / "report.html")
    from racecar.study.classification import report
    from racecar.study.classification.experiment import reopen
    from racecar.study.commands.classification import experiment_of

    study, config = reopen(folder, experiment_of(name))
    return write(report.page(study, experiment_of(name), config), folder / "report.html")


def _write_results(folder: Path, into: Path) -> list[Path]:
    name = _experiment(folder)
    if name == "mutual-information":
        from racecar.study.mutual_information import experiment
        from racecar.study.mutual_information.report import write_results

        return write_results(*experiment.reopen(folder), into)
    from racecar.study.classification import report
    from racecar.study.classification.experiment import reopen
    from racecar.study.commands.classification import experiment_of

    study, config = reopen(folder, experiment_of(name))
    return report.write_results(study, experiment_of(name), config, into)


def _experiment(folder: Path) -> str:
    name = read_json(folder / "study.json").get("experiment")
    if name not in ("mutual-information", "digits", "cifar"):
        raise StudyError(f"{folder} holds the study {name!r}, which this version cannot report")
    return name


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or the studies directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    found = [p.parent for p in sorted([folder / "study.json", *folder.glob("*/study.json")]) if p.exists()]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found
