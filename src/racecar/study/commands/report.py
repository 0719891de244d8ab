"""``racecar report``: report.html of studies on disk, and their numbers for a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.errors import StudyError
from racecar.study.studies import page_of


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(description="write report.html from the finished runs of studies")
    made.add_argument("runs", nargs="+", type=str, help="study folders, or a folder that holds some")
    made.add_argument("--results", type=str, default=None, help="folder for tables (Markdown) and figures (PNG)")
    return made


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


def _studies(folder: Path) -> list[Path]:
    """The folder itself, or the studies directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    found = [p.parent for p in sorted([folder / "study.json", *folder.glob("*/study.json")]) if p.exists()]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found
