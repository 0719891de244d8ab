"""``racecar report``: report.html of studies, trainings and transfers, their numbers and their figures as files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.errors import StudyError
from racecar.study.core.terminal import progress_bar
from racecar.study.studies import page_of

if TYPE_CHECKING:
    from racecar.study.report import Page


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(description="write report.html from finished runs")
    made.add_argument(
        "runs", nargs="+", type=str, help="folders of studies, trainings or transfers, or one that holds some"
    )
    made.add_argument(
        "--model", type=str, default=None, help="a training's module:NAME, to say that this code may be run"
    )
    made.add_argument(
        "--push", type=str, default=None, help="owner/name: put a training's weights and card on the Hugging Face hub"
    )
    made.add_argument("--results", type=str, default=None, help="folder for tables (Markdown) and figures (PNG)")
    made.add_argument(
        "--name", type=str, default=None, help="of the table and the figures, for one run alone; without .md"
    )
    made.add_argument(
        "--figures", type=str, default=None, help="folder for figures for print: PDF and SVG, pictures at 300 dpi"
    )
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Write them."""
    from racecar.study.report import write_figures, write_results
    from racecar.study.use.card import push
    from racecar.study.use.network import Network
    from racecar.study.use.report import is_run, page_of_run

    folders = [folder for name in options.runs for folder in _studies(Path(name))]
    if options.name is not None:
        _check_name(options, folders)
    said: list[str] = []
    try:
        with progress_bar(f"{len(folders)} report{'s' * (len(folders) > 1)}", len(folders), 0) as advance:
            for folder in folders:
                page = page_of_run(folder, options.model) if is_run(folder) else page_of(folder)
                page = dataclasses.replace(page, name=options.name or page.name)
                said += _written(page, folder)
                if options.results is not None:
                    said += [f"results: {path}" for path in write_results(page, Path(options.results))]
                if options.figures is not None:
                    said += [f"figure: {path}" for path in write_figures(page, Path(options.figures))]
                advance(1)
    finally:
        for line in said:
            print(line)
    if options.push is not None:
        if len(options.runs) != 1:
            raise ValueError("--push is for one training alone")
        name = push(Network.open(options.runs[0], options.model), options.push)
        print(f"pushed: https://huggingface.co/{name}")
    return 0


def report_on(folder: Path) -> str:
    """Write report.html into a study's folder, whichever study it is; what was found and where it stands, two lines."""
    return "\n".join(_written(page_of(folder), folder))


def _written(page: Page, folder: Path) -> list[str]:
    """What to say of a page, once it is written: what was found, and where it stands."""
    from racecar.study.report import write

    return [page.said(), f"report: {write(page, folder / 'report.html')}"]


def _check_name(options: Namespace, folders: Sequence[Path]) -> None:
    """Refuse a name that nothing or several runs would have, or that is none of a file.

    Raises:
        ValueError: it is.
    """
    if len(folders) != 1:
        raise ValueError(f"--name {options.name} is for one run alone, and here are {len(folders)}")
    if options.results is None and options.figures is None:
        raise ValueError(f"--name {options.name} names tables and figures: add --results FOLDER or --figures FOLDER")
    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise ValueError(f"--name {options.name!r}: use letters, digits, '-', '_' and '.', as in transfer-mine")


def _studies(folder: Path) -> list[Path]:
    """The folder itself if it is a study, else those directly inside it."""
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a folder: give the --out of a study")
    if (folder / "study.json").exists():
        return [folder]
    found = [p.parent for p in sorted(folder.glob("*/study.json"))]
    if not found:
        raise StudyError(f"{folder} holds no study (no study.json there or one level below)")
    return found
