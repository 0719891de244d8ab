"""Building blocks of a one-file HTML report: text, tables, figures, verdicts, and the page they stand on.

Generic on purpose: nothing in here knows an experiment. Whatever comes from outside is escaped, and the
page loads nothing, so a report can be mailed, archived and opened without a network.
"""

import errno
import functools
import hashlib
import html
import math
import numbers
import os
import re
import secrets
import shlex
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol, get_args

Outcome = Literal["reproduced", "not reproduced", "undecided", "not run"]
Variant = Literal["", "std", "rr", "ort"]

NOT_RUN = "not run"

_OUTCOMES: tuple[str, ...] = get_args(Outcome)
_VARIANTS: tuple[str, ...] = get_args(Variant)
# A badge must be readable without its colour, so each outcome has a sign as well as its words.
_SIGNS = {"reproduced": "✓", "not reproduced": "✕", "undecided": "?", "not run": "–"}


class Block(Protocol):
    """Anything that can stand on a page."""

    def html(self, at: str = "") -> str:
        """Return the block as HTML; `at` is its place in the page, from which its ids are made."""
        ...


# --------------------------------------------------------------------------------------------- escaping

# Characters that HTML forbids, and lone surrogates, which UTF-8 cannot hold: both reach a report through
# file names and environment variables.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _escape(text: object) -> str:
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True)


def _inline(text: str) -> str:
    """Escape `text`, then turn `code` and **bold** into elements; what is left unpaired stays as written."""
    pieces = re.split(r"`([^`\n]+)`", text)
    # re.split with one group alternates: prose, code, prose, ...
    return "".join(
        f"<code>{_escape(piece)}</code>"
        if i % 2
        else re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>", _escape(piece), flags=re.DOTALL)
        for i, piece in enumerate(pieces)
    )


def _plain(text: str) -> str:
    """Escape `text` for an attribute, without the marks of `_inline`."""
    return _escape(re.sub(r"`|\*\*", "", text))


def _check_variant(variant: str) -> None:
    if variant not in _VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; allowed: {', '.join(map(repr, _VARIANTS))}")


# ------------------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; `code` in backticks and **bold** are the only marks."""

    text: str

    def html(self, at: str = "") -> str:
        """Return one `<p>` for each paragraph."""
        paragraphs = (p.strip() for p in re.split(r"\n\s*\n", self.text))
        return "\n".join(f"<p>{_inline(p)}</p>" for p in paragraphs if p)


@dataclass(frozen=True)
class Command:
    """A command to copy: one click selects all of it."""

    text: str

    def html(self, at: str = "") -> str:
        """Return the command as a code block."""
        # The leading newline of <pre> is dropped by HTML, so the text never loses a line of its own.
        return f'<pre class="command" tabindex="0"><code>{_escape(self.text.strip())}</code></pre>'


@dataclass(frozen=True)
class KeyValues:
    """A configuration or an environment, folded away under its title; nested keys are joined by dots."""

    mapping: Mapping[str, object]
    title: str
    open: bool = False

    def html(self, at: str = "") -> str:
        """Return a `<details>` with one line for each key."""
        pairs = list(_flat(self.mapping))
        lines = "\n".join(f"<div><dt>{_escape(key)}</dt><dd>{_value(value)}</dd></div>" for key, value in pairs)
        body = f"<dl>\n{lines}\n</dl>" if pairs else '<p class="muted">empty</p>'
        count = f"{len(pairs)} {'entry' if len(pairs) == 1 else 'entries'}"
        return (
            f'<details class="values"{" open" if self.open else ""}>\n'
            f'<summary>{_escape(self.title)} <span class="muted">{count}</span></summary>\n'
            f"{body}\n</details>"
        )


def _flat(mapping: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: object) -> str:
    if value is None or value == "":
        return f'<span class="muted">{"none" if value is None else "empty"}</span>'
    if isinstance(value, list | tuple):
        return _escape(", ".join(map(str, value))) if value else '<span class="muted">empty</span>'
    return _escape(value)


# ----------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Column:
    """A column's heading and how its cells are set.

    Args:
        title: The heading.
        numeric: Right-aligned with tabular numerals. None decides by what the column holds.
        digits: Decimals of cells given as floats; None: four significant digits.
        variant: "std", "rr" or "ort": the colour of the column's mark and bars.
        detail: A small second line of the heading, such as a unit.
    """

    title: str
    numeric: bool | None = None
    digits: int | None = None
    variant: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        _check_variant(self.variant)


@dataclass(frozen=True)
class Cell:
    """A table cell with more than its text.

    Args:
        text: The value; None says that it was not run.
        detail: A small second line, such as "95 % CI .91-.95, n = 5".
        emphasis: Set in bold.
        bar: A tiny horizontal bar of this share, 0 to 1. Its colour is that of the cell, else of the row's
            first cell, else of the column.
        variant: "std", "rr" or "ort": the colour of the bar, or of a mark before the text without one.
    """

    text: object
    detail: str = ""
    emphasis: bool = False
    bar: float | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        _check_variant(self.variant)
        if self.bar is not None and not 0 <= self.bar <= 1:  # false for NaN too
            raise ValueError(f"a bar's share must lie in 0..1, not {self.bar!r} (cell {self.text!r})")


@dataclass(frozen=True)
class Group:
    """A row that heads the rows below it."""

    heading: str


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. A cell that is None reads "not run".

    Args:
        columns: The headings; a plain string is a `Column` with the defaults.
        rows: Sequences with one cell for each column (str, number, None or `Cell`), or `Group`s.
        caption: What the table shows; stands above it.
        note: A remark below it.
    """

    columns: Sequence[str | Column]
    rows: Sequence[Sequence[object] | Group]
    caption: str
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if not isinstance(row, Group) and len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of the table {self.caption!r} has {len(row)} cells for {len(self.columns)} columns"
                )

    def html(self, at: str = "") -> str:
        """Return the table, its caption and its note; a wide one scrolls inside its own frame."""
        columns = [column if isinstance(column, Column) else Column(column) for column in self.columns]
        numeric = [self._is_numeric(i, column) for i, column in enumerate(columns)]
        head = "".join(
            f'<th scope="col"{_classes("number" if right else "", column.variant)}>'
            f"{_mark(column.variant)}{_escape(column.title)}{_detail(column.detail)}</th>"
            for column, right in zip(columns, numeric, strict=True)
        )
        bodies: list[list[str]] = [[]]
        for row in self.rows:
            if isinstance(row, Group):
                bodies.append(
                    [
                        f'<tr class="group"><th scope="rowgroup" colspan="{len(columns)}">'
                        f"<span>{_escape(row.heading)}</span></th></tr>"
                    ]
                )
            else:
                bodies[-1].append(_row(row, columns, numeric))
        body = "\n".join("<tbody>\n" + "\n".join(lines) + "\n</tbody>" for lines in bodies if lines)
        if not self.rows:
            body = f'<tbody><tr><td colspan="{len(columns)}" class="muted">no rows</td></tr></tbody>'
        note = f'\n<p class="note">{_inline(self.note)}</p>' if self.note else ""
        # The caption stands outside the frame that scrolls: it wraps on a phone instead of sliding away.
        return (
            f'<figure class="table">\n<figcaption>{_inline(self.caption)}</figcaption>\n'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{_plain(self.caption)}">\n'
            f"<table>\n<thead><tr>{head}</tr></thead>\n{body}\n</table>\n</div>{note}\n</figure>"
        )

    def _is_numeric(self, index: int, column: Column) -> bool:
        if column.numeric is not None:
            return column.numeric
        if index == 0:  # names of rows read best from the left, even where they are numbers
            return False
        cells = [row[index] for row in self.rows if not isinstance(row, Group)]
        values = [cell.text if isinstance(cell, Cell) else cell for cell in cells]
        shown = [value for value in values if value is not None and str(value).strip() not in _BLANKS]
        # A column in which nothing was run waits for numbers: in a report of results that is the safe guess.
        return bool(cells) and all(_looks_numeric(value) for value in shown)


_BLANKS = {"", "-", "–", "—", "n/a"}
_NUMBER = re.compile(r"[<>≤≥≈~]?\s*[-+−±]?\s*\.?\d[\d.,\s±%×eE+−-]*(pp|ms|s|h)?")


def _looks_numeric(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Real) or bool(_NUMBER.fullmatch(str(value).strip()))


def _classes(*names: str) -> str:
    joined = " ".join(name for name in names if name)
    return f' class="{joined}"' if joined else ""


def _mark(variant: str) -> str:
    return '<span class="mark"></span>' if variant else ""


def _detail(text: str) -> str:
    return f'<small class="detail">{_escape(text)}</small>' if text else ""


def _number(value: object, digits: int | None) -> str:
    """Write a cell's value; floats with the paper's minus sign, so that they line up with typed ones."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        real = float(value)
        if not math.isfinite(real):
            return {math.inf: "∞", -math.inf: "−∞"}.get(real, "nan")
        return f"{real:{'.4g' if digits is None else f'z.{digits}f'}}".replace("-", "−")  # z: no "−0.00"
    if isinstance(value, numbers.Integral):
        return str(value).replace("-", "−")
    return str(value)


def _row(row: Sequence[object], columns: Sequence[Column], numeric: Sequence[bool]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    row_variant = cells[0].variant if cells else ""
    out = []
    for i, (cell, column, right) in enumerate(zip(cells, columns, numeric, strict=True)):
        variant = cell.variant or row_variant or column.variant
        if cell.text is None:
            text = f'<span class="muted">{NOT_RUN}</span>'
        else:
            text = _escape(_number(cell.text, column.digits))
        if cell.emphasis:
            text = f"<strong>{text}</strong>"
        bar = ""
        if cell.bar is not None:
            bar = f'<span class="bar"><span style="width:{cell.bar * 100:.4g}%"></span></span>'
        mark = _mark(cell.variant) if cell.bar is None else ""
        tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
        classes = _classes("number" if right else "", variant)
        out.append(f"<{tag}{scope}{classes}>{mark}{text}{bar}{_detail(cell.detail)}</{tag}>")
    return f"<tr>{''.join(out)}</tr>"


# ---------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Figure:
    """A drawing, inlined from SVG text such as matplotlib writes.

    Its ids are renamed so that several drawings can share a page. Only what draws is kept: no script, no
    style sheet (it would apply to the whole page), no link and nothing fetched from elsewhere.

    Args:
        svg: The SVG document.
        caption: What the figure shows; stands below it.
        alt: The same for readers who cannot see it.
    """

    svg: str
    caption: str
    alt: str

    def __post_init__(self) -> None:
        _parse_svg(self.svg)  # so that a bad drawing is reported where it was made

    def html(self, at: str = "") -> str:
        """Return the drawing on a light card with its caption."""
        place = at or "svg" + hashlib.sha256(self.svg.encode()).hexdigest()[:10]
        root = _parse_svg(self.svg)
        _clean(root, prefix=f"{place}.")
        width = _fit(root)
        root.set("role", "img")
        root.set("aria-label", _UNPRINTABLE.sub("\ufffd", self.alt))
        drawing = ET.tostring(root, encoding="unicode")
        natural = f' style="--natural:{width:.0f}px"' if width else ""
        caption = f"<figcaption>{_inline(self.caption)}</figcaption>\n" if self.caption else ""
        return (
            f'<figure class="drawing">\n<div class="card"{natural} tabindex="0" role="group"'
            f' aria-label="{_plain(self.caption or self.alt)}">\n{drawing}\n</div>\n{caption}</figure>'
        )


_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_XML = "{http://www.w3.org/XML/1998/namespace}"
# fmt: off
_DRAWS = {
    "svg", "g", "defs", "symbol", "use", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon",
    "text", "tspan", "textPath", "image", "clipPath", "mask", "pattern", "marker", "linearGradient",
    "radialGradient", "stop", "title", "desc",
}
# Classes and roles of the drawing would meet those of the page; the rest belongs to links.
_LEFT_OUT = {"class", "role", "tabindex", "target", "src", "type", "show", "actuate", "title"}
# fmt: on
_REFERENCE = re.compile(r"url\(\s*(['\"]?)(.*?)\1\s*\)", re.IGNORECASE | re.DOTALL)
_SMUGGLES = re.compile(r"\\|@|/\*|//|url\s*\(|image(-set)?\s*\(", re.IGNORECASE)
_INLINE_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")


def _parse_svg(svg: str) -> ET.Element:
    try:
        # A document that says "encoding=..." is text already: the prolog goes, and with it any quarrel.
        root = ET.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", svg.lstrip("\ufeff"), count=1, flags=re.DOTALL))
    except ET.ParseError as error:
        raise ValueError(f"the figure is not well-formed SVG: {error}") from error
    if root.tag not in (f"{_SVG}svg", "svg"):
        raise ValueError(f"the figure is not an SVG drawing: its root element is {root.tag!r}")
    return root


def _clean(element: ET.Element, prefix: str) -> None:
    """Keep what draws, without namespaces (HTML knows SVG by name), and put `prefix` before every id."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = list(element.attrib.items())
    element.attrib.clear()
    for name, value in attributes:
        kept = _attribute(name, value, prefix)
        if kept is not None:
            element.set(*kept)
    for child in list(element):
        # Comments and processing instructions have a function for a tag.
        name = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if name == "a":  # a link around marks: the marks stay
            child.tag = "g"
        elif name not in _DRAWS:
            _drop(element, child)
            continue
        _clean(child, prefix)


def _drop(parent: ET.Element, child: ET.Element) -> None:
    """Remove `child` but not the text that follows it, which ElementTree hangs on it."""
    siblings = list(parent)
    place = siblings.index(child)
    if child.tail and place:
        siblings[place - 1].tail = (siblings[place - 1].tail or "") + child.tail
    elif child.tail:
        parent.text = (parent.text or "") + child.tail
    parent.remove(child)


def _attribute(name: str, value: str, prefix: str) -> tuple[str, str] | None:
    """Return the attribute as it may stand in the page, or None where it may not."""
    if name.startswith(_XML):
        return f"xml:{name.removeprefix(_XML)}", value
    name = name.removeprefix(_XLINK)
    if name in _LEFT_OUT or name.startswith(("{", "on", "aria-")):  # "on...": event handlers
        return None
    if name == "id":
        return name, prefix + value
    if name == "href":
        if value.startswith("#"):
            return name, f"#{prefix}{value[1:]}"
        return (name, value) if _INLINE_IMAGE.fullmatch(value) else None

    def local(match: re.Match[str]) -> str:
        target = match[2]
        return f"url(#{prefix}{target[1:]})" if target.startswith("#") else "none"

    value = _REFERENCE.sub(local, value)
    # What could still smuggle an address in: an escape, a comment, an import, a bracket left open.
    return None if _SMUGGLES.search(value.replace(f"url(#{prefix}", "")) else (name, value)


def _fit(root: ET.Element) -> float:
    """Give the drawing over to the style sheet's width; return the one it was made for, in CSS pixels."""
    width, height = (_pixels(root.attrib.pop(side, "")) for side in ("width", "height"))
    if "viewBox" not in root.attrib and width and height:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    if not width:
        box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
        width = _pixels(box[2]) if len(box) == 4 else 0.0
    return width


def _pixels(length: str) -> float:
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:e[+-]?\d+)?)\s*(px|pt|pc|in|cm|mm|)\s*", length)
    scales = {"": 1, "px": 1, "pt": 96 / 72, "pc": 16, "in": 96, "cm": 96 / 2.54, "mm": 96 / 25.4}
    return float(match[1]) * scales[match[2]] if match else 0.0


# --------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """A claim, where it is made, and what became of it.

    Args:
        claim: The claim in one sentence.
        where: Its place, such as "Section 4".
        outcome: "reproduced", "not reproduced", "undecided" or "not run".
        evidence: The numbers that decide it, or why they are missing.
    """

    claim: str
    where: str
    outcome: Outcome
    evidence: str

    def __post_init__(self) -> None:
        if self.outcome not in _OUTCOMES:
            allowed = ", ".join(map(repr, _OUTCOMES))
            raise ValueError(f"unknown outcome {self.outcome!r} of {self.claim!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Verdicts:
    """A list of verdicts, headed by how many there are of each kind."""

    items: Sequence[Verdict]

    def html(self, at: str = "") -> str:
        """Return the counts and the list."""
        if not self.items:
            return '<p class="muted">no claims</p>'
        counts = [(outcome, sum(item.outcome == outcome for item in self.items)) for outcome in _OUTCOMES]
        tally = "\n".join(f"<li>{_badge(outcome, f'{count} {outcome}')}</li>" for outcome, count in counts if count)
        entries = "\n".join(
            f'<li>\n<div class="outcome">{_badge(item.outcome, item.outcome)}</div>\n<div>'
            f'<p class="claim">{_inline(item.claim)} <span class="where">{_escape(item.where)}</span></p>'
            + (f'<p class="evidence">{_inline(item.evidence)}</p>' if item.evidence else "")
            + "</div>\n</li>"
            for item in self.items
        )
        return f'<ul class="tally">\n{tally}\n</ul>\n<ol class="verdicts">\n{entries}\n</ol>'


def _badge(outcome: str, text: str) -> str:
    return (
        f'<span class="badge {outcome.replace(" ", "-")}">'
        f'<span aria-hidden="true">{_SIGNS[outcome]}</span> {text}</span>'
    )


# ------------------------------------------------------------------------------------- sections and page


@dataclass(frozen=True)
class Section:
    """A titled run of blocks; a section among the blocks is a subsection."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""

    def html(self, at: str = "", level: int = 2) -> str:
        """Return the section; `at` is its anchor, `level` that of its heading."""
        at = at or _slug(self.title)
        lead = f'<p class="lead">{_inline(self.lead)}</p>\n' if self.lead else ""
        return (
            f'<section id="{_escape(at)}">\n<h{level}>{_escape(self.title)}</h{level}>\n{lead}'
            f"{_render(self.blocks, at, level + 1)}\n</section>"
        )


def _render(blocks: Sequence[Block], at: str, level: int) -> str:
    # A slug has no dot, so "section.number" is an address that no other section can have.
    return "\n".join(
        block.html(f"{at}.{i}", level=min(level, 6)) if isinstance(block, Section) else block.html(f"{at}.{i}")
        for i, block in enumerate(blocks, start=1)
    )


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-_") or "section"


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

    Args:
        title: Its name.
        subtitle: One line below the title.
        sections: Its sections, in the order of the table of contents.
        summary_blocks: Blocks that stand before the first section.
        command: The command that made it, for the footer; by default that of this process.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    summary_blocks: Sequence[Block] = ()
    command: str = field(default_factory=_command_line)

    def html(self) -> str:
        """Return the document; it needs no other file and no network."""
        anchors = self._anchors()
        contents = [_entry(anchor, section) for anchor, section in anchors]
        body = [section.html(anchor) for anchor, section in anchors]
        if self.summary_blocks:
            contents.insert(0, _entry("summary", Section("Summary", ())))
            blocks = _render(self.summary_blocks, "summary", 3)
            body.insert(0, f'<section id="summary">\n<h2>Summary</h2>\n{blocks}\n</section>')
        toc = "\n".join(contents)
        nav = f'<nav aria-label="Contents">\n<h2>Contents</h2>\n<ol>\n{toc}\n</ol>\n</nav>\n' if toc else ""
        # The policy makes a browser refuse whatever the escaping might ever let through.
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy"'
            " content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            # Without an icon of its own, a served page makes the browser ask for /favicon.ico.
            '<link rel="icon" href="data:,">\n'
            f"<title>{_escape(self.title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
            f"<header>\n<h1>{_escape(self.title)}</h1>\n"
            f'<p class="subtitle">{_inline(self.subtitle)}</p>\n</header>\n{nav}'
            "<main>\n" + "\n".join(body) + "\n</main>\n"
            f"<footer>\n<p>Made by</p>\n{Command(self.command).html()}\n</footer>\n</body>\n</html>\n"
        )

    def _anchors(self) -> list[tuple[str, Section]]:
        """Name each section after its title, with a number where a name is taken."""
        taken = {"summary"} if self.summary_blocks else set()
        anchors = []
        for section in self.sections:
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
        f'<li><a href="#{_escape(at)}.{i}">{_escape(block.title)}</a></li>'
        for i, block in enumerate(section.blocks, start=1)
        if isinstance(block, Section)
    )
    sublist = f"<ol>{inner}</ol>" if inner else ""
    return f'<li><a href="#{_escape(at)}">{_escape(section.title)}</a>{sublist}</li>'


@functools.cache
def _style() -> str:
    return resources.files("racecar.study.report").joinpath("style.css").read_text(encoding="utf-8")


def write(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path`, all of it or nothing: a reader never sees half a report.

    Folders that are missing are made.

    Returns:
        The path.

    Raises:
        OSError: The folder cannot be written; a report that was there before is left as it was.
    """
    target = Path(path)
    text = page.html().encode("utf-8")
    # Opened by hand because a file of `tempfile` is private to its owner, and a report is to be read.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:  # an interrupt too must not leave the temporary file behind
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot write the report {target.name} into the folder {target.parent}: {reason}"
        # With its number, OSError becomes PermissionError and the like, as it was before.
        raise OSError(error.errno or errno.EIO, message) from error
    return target
