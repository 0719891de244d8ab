"""A whole report: sections of blocks, written once and shown twice, as one HTML file and as a results file.

The page is self-contained: it loads nothing, so it can be mailed, archived and opened without a network. The results
file is Markdown for a repository, with its figures beside it.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from racecar.study.core.files import write_bytes, write_text
from racecar.study.report.blocks import Block, Command, Figure, KeyValues, Only, Text
from racecar.study.report.claims import SMOKE_TEST
from racecar.study.report.escaping import (
    html_inline,
    html_label,
    html_text,
    html_words,
    markdown_inline,
    markdown_line,
    paragraphs,
)
from racecar.study.report.typography import plain

_VECTORS: tuple[Literal["pdf", "svg"], ...] = ("pdf", "svg")


@dataclass(frozen=True)
class Section:
    """A titled run of blocks; a section among the blocks is a subsection.

    Args:
        title: Its heading.
        blocks: What stands in it.
        lead: A sentence below the heading, on the page alone.
        short: The heading in the results file, where it differs.
    """

    title: str
    blocks: Sequence[Block]
    lead: str = ""
    short: str = ""

    def html(self, at: str = "", level: int = 2) -> str:
        """Return the section; `at` is its anchor, `level` that of its heading."""
        at = at or _slug(self.title)
        lead = f'<p class="lead">{html_inline(self.lead)}</p>\n' if self.lead else ""
        return (
            f'<section id="{html_text(at)}">\n<h{level}>{html_words(self.title)}</h{level}>\n{lead}'
            f"{_html(self.blocks, at, level + 1)}\n</section>"
        )

    def markdown(self, at: str = "", level: int = 2) -> str:
        """Return the section without its figures; nothing where it has nothing else for a results file."""
        parts = [
            block.markdown(at, level + 1) if isinstance(block, Section) else block.markdown(at)
            for block in _shown(self.blocks, "results")
            if not isinstance(block, Figure)
        ]
        return _joined(f"{'#' * level} {markdown_inline(self.short or self.title)}", parts)


def _shown(blocks: Iterable[Block], where: Literal["page", "results"]) -> list[Block]:
    """The blocks that stand there."""
    there = [block for block in blocks if not isinstance(block, Only) or block.where == where]
    return [block.block if isinstance(block, Only) else block for block in there]


def _html(blocks: Sequence[Block], at: str, level: int) -> str:
    # A slug has no dot, so "section.number" is an address that no other section can have.
    return "\n".join(
        block.html(f"{at}.{i}", level=min(level, 6)) if isinstance(block, Section) else block.html(f"{at}.{i}")
        for i, block in enumerate(_shown(blocks, "page"), start=1)
    )


def _joined(heading: str, parts: Iterable[str]) -> str:
    """Markdown under a heading; without any, no heading either."""
    content = [part for part in parts if part]
    return "\n\n".join([heading, *content]) if content else ""


def _figures(blocks: Iterable[Block], where: Literal["page", "results"]) -> Iterator[Figure]:
    """The figures that can be drawn anew, in the order of the page."""
    for block in _shown(blocks, where):
        if isinstance(block, Section):
            yield from _figures(block.blocks, where)
        elif isinstance(block, Figure) and not isinstance(block.drawing, str):
            yield block


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-_") or "section"


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a study come from.

    Args:
        metadata: The content of study.json.
        config: The configuration; nested keys are joined by dots.
        sources: The data, in sentences.
        amount: What was trained, such as "65 networks".
        seeds: Which seeds, in a sentence.
    """

    metadata: Mapping[str, Any]
    config: Mapping[str, object]
    sources: str
    amount: str
    seeds: str

    @property
    def command(self) -> str:
        """The calls that have filled the study's folder."""
        return str(self.metadata["command"])

    def html(self, at: str = "") -> str:
        """Return the command, the configuration and the environment."""
        blocks = (
            Command(self.command),
            KeyValues(self.config, "Configuration"),
            KeyValues(self.metadata["environment"], "Environment"),
        )
        return "\n".join(block.html(at) for block in blocks)

    def markdown(self, at: str = "") -> str:
        """Return the command, and the data, hardware, versions, revisions and time in one paragraph."""
        environment = self.metadata["environment"]
        accelerator = environment.get("accelerator", "none")
        hardware = environment["processor"] + (f", {accelerator}" if accelerator != "none" else "")
        revisions = ", ".join(self.metadata.get("revisions") or [environment["revision"]])
        line = (
            f"{self.sources} {hardware}, torch {environment['torch']}, Python {environment['python']}, revision "
            f"{revisions}; {self.amount} in {self.metadata['seconds']:.0f} s. {self.seeds}"
        )
        return f"{Command(self.command).markdown(at)}\n\n{markdown_line(line)}"


def _command_line() -> str:
    """Return the command of this process as one would type it: without the folder of the program."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        program = ["python", "-m", spec.name.removesuffix(".__main__")]
    else:
        program = [Path(sys.argv[0]).name or "python"]
    return shlex.join([*program, *sys.argv[1:]])


@dataclass(frozen=True)
class Page:
    """A whole report.

    Its first screen is the answer and one figure; the contents are folded below them. In the results file the answer
    and the summary are headed "Verdicts" and the figures are gathered at the end; sections that have nothing else to
    say there are left out.

    Args:
        title: Its name.
        subtitle: Where the numbers come from, in a line or two below the figure, on the page alone.
        sections: Its sections, in the order of the table of contents.
        summary_blocks: Blocks that stand before the first section.
        command: The command that made it, for the footer; by default that of this process.
        setting: What the study was run as, such as "small preset"; stands beside the title.
        provenance: Where its numbers come from: the page's last section, the results file's first lines.
        name: Of the results file and, with their own names, of its figures' files.
        answer: What was found, in a sentence or two.
        figure: The one figure that shows it.
        smoke_test: Whether nothing may be concluded from it, which is said above all.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    summary_blocks: Sequence[Block] = ()
    command: str = field(default_factory=_command_line)
    setting: str = ""
    provenance: Provenance | None = None
    name: str = ""
    answer: str = ""
    figure: Figure | None = None
    smoke_test: bool = False

    def said(self) -> str:
        """Return title and answer in one line, for a terminal; only that it is a smoke test, of one."""
        words = SMOKE_TEST if self.smoke_test else self.answer
        return plain(f"{self._heading}: {' '.join(words.replace('**', '').split())}" if words else self._heading)

    def html(self) -> str:
        """Return the document; it needs no other file and no network."""
        setting = f'<p class="setting">{html_words(self.setting)}</p>\n' if self.setting else ""
        warning = f'<p class="warning">{html_inline(SMOKE_TEST)}</p>\n' if self.smoke_test else ""
        answer = "".join(f'<p class="answer">{html_inline(p)}</p>\n' for p in paragraphs(self.answer))
        figure = f"{self.figure.html('answer')}\n" if self.figure is not None else ""
        subtitle = f'<p class="subtitle">{html_inline(self.subtitle)}</p>\n' if self.subtitle else ""
        anchors = self._anchors()
        contents = [_entry(anchor, section) for anchor, section in anchors]
        body = [section.html(anchor) for anchor, section in anchors]
        if self.summary_blocks:
            heading = "Verdicts" if self.answer or self.smoke_test else "Summary"
            contents.insert(0, _entry("summary", Section(heading, ())))
            blocks = _html(self.summary_blocks, "summary", 3)
            body.insert(0, f'<section id="summary">\n<h2>{heading}</h2>\n{blocks}\n</section>')
        toc = "\n".join(contents)
        nav = ""
        if toc:
            nav = (
                '<details class="contents">\n<summary>Contents</summary>\n<nav aria-label="Contents">\n'
                f"<ol>\n{toc}\n</ol>\n</nav>\n</details>\n"
            )
        # The policy makes a browser refuse whatever the escaping might ever let through.
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy"'
            " content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            # Without an icon of its own, a served page makes the browser ask for /favicon.ico.
            '<link rel="icon" href="data:,">\n'
            f"<title>{html_label(self._heading)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
            f"<header>\n<h1>{html_words(self.title)}</h1>\n{setting}{warning}{answer}{figure}{subtitle}</header>\n{nav}"
            "<main>\n" + "\n".join(body) + "\n</main>\n"
            f"<footer>\n<p>Made by</p>\n{Command(self.command).html()}\n</footer>\n</body>\n</html>\n"
        )

    def markdown(self) -> str:
        """Return the results file; it refers to the pictures of :meth:`figures`."""
        title = self.title + (f", {self.setting}" if self.setting else "")
        parts = [
            f"# {markdown_inline(title)}",
            f"**{SMOKE_TEST}**" if self.smoke_test else "",
            self.provenance.markdown(self.name) if self.provenance is not None else "",
            Section("Verdicts", [Text(self.answer), *self.summary_blocks]).markdown(self.name),
            *(section.markdown(self.name) for section in self.sections),
            _joined("## Figures", (figure.markdown(self.name) for figure in self.figures())),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def figures(self) -> list[Figure]:
        """Those that have a file of their own beside the results file, in the order of the page."""
        return [figure for figure in _figures(self._blocks, "results") if figure.name]

    def drawn(self) -> dict[str, Figure]:
        """Every figure that can be drawn anew, by its name, else by its number."""
        return {figure.name or f"{i}": figure for i, figure in enumerate(_figures(self._blocks, "page"), start=1)}

    @property
    def _heading(self) -> str:
        return self.title + (f" ({self.setting})" if self.setting else "")

    @property
    def _blocks(self) -> list[Block]:
        first = [self.figure] if self.figure is not None else []
        return [*first, *self.summary_blocks, *self.sections]

    def _anchors(self) -> list[tuple[str, Section]]:
        """Name each section after its title, with a number where a name is taken."""
        sections = [*self.sections]
        if self.provenance is not None:
            sections.append(Section("How it was run", [self.provenance]))
        taken = {"summary"} if self.summary_blocks else set()
        anchors = []
        for section in sections:
            slug = anchor = _slug(section.title)
            number = 2
            while anchor in taken:
                anchor = f"{slug}-{number}"
                number += 1
            taken.add(anchor)
            anchors.append((anchor, section))
        return anchors


def _entry(at: str, section: Section) -> str:
    """Return a line of the table of contents with its subsections (one level: more is no overview)."""
    inner = "".join(
        f'<li><a href="#{html_text(at)}.{i}">{html_words(block.title)}</a></li>'
        for i, block in enumerate(_shown(section.blocks, "page"), start=1)
        if isinstance(block, Section)
    )
    sublist = f"<ol>{inner}</ol>" if inner else ""
    return f'<li><a href="#{html_text(at)}">{html_words(section.title)}</a>{sublist}</li>'


@functools.cache
def _style() -> str:
    return resources.files("racecar.study.report").joinpath("style.css").read_text(encoding="utf-8")


def write(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path`, all of it or nothing: a reader never sees half a report.

    Folders that are missing are made.

    Returns:
        The path.

    Raises:
        StudyError: The file cannot be written; a report that was there before is left as it was.
    """
    target = Path(path)
    write_text(target, page.html())
    return target


def write_figures(page: Page, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure for print, as PDF and as SVG.

    Folders that are missing are made. Each file is written whole or not at all.

    Returns:
        The paths.

    Raises:
        StudyError: A file cannot be written.
    """
    written = []
    for name, figure in page.drawn().items():
        for kind in _VECTORS:
            written.append(Path(folder) / f"{page.name}-{name}.{kind}")
            write_bytes(written[-1], figure.vector(kind))
    return written


def write_results(page: Page, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the page for a repository: NAME.md, and the figures beside it as PNG or JPEG.

    Folders that are missing are made. Each file is written whole or not at all, the Markdown last.

    Returns:
        The paths: NAME.md, then the figures.

    Raises:
        ValueError: The page has no name.
        StudyError: A file cannot be written.
    """
    if not page.name:
        raise ValueError(f"the page {page.title!r} has no name for its results file")
    results = Path(folder) / f"{page.name}.md"
    written = [results]
    for figure in page.figures():
        written.append(results.with_name(figure.file(page.name)))
        write_bytes(written[-1], figure.picture())
    write_text(results, page.markdown())
    return written
