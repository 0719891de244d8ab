"""Building blocks of a report: text, commands, values, tables, verdicts, figures.

Each knows itself as HTML, for a page that loads nothing, and as Markdown, for a results file in a repository. Nothing
in here knows an experiment. Whatever comes from outside is escaped, see :mod:`.escaping`.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from racecar.study.report import svg
from racecar.study.report.claims import OUTCOMES, Verdict
from racecar.study.report.escaping import html_inline, html_label, html_text, html_words, markdown_line, paragraphs
from racecar.study.report.markdown import markdown, portable

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

NOT_RUN = "not run"
_NUMBER_CLASS = ' class="number"'
_FEW = 3  # verdicts that need no folding

# A badge must be readable without its colour, so each outcome has a sign as well as its words.
_SIGNS = {"reproduced": "✓", "equivalent": "=", "not reproduced": "✕", "undecided": "?", "not run": "–"}


class Block(Protocol):
    """Anything that can stand in a report."""

    def html(self, at: str = "") -> str:
        """Return the block as HTML; `at` is its place in the page, from which its ids are made."""
        ...

    def markdown(self, at: str = "") -> str:
        """Return the block as Markdown; `at` is the results file's name, from which those of its figures are made."""
        ...


@dataclass(frozen=True)
class Only:
    """A block that only the page shows, or only the results file."""

    where: Literal["page", "results"]
    block: Block

    def html(self, at: str = "") -> str:
        """Return the block's HTML, or nothing."""
        return self.block.html(at) if self.where == "page" else ""

    def markdown(self, at: str = "") -> str:
        """Return the block's Markdown, or nothing."""
        return self.block.markdown(at) if self.where == "results" else ""


# ------------------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; `code` in backticks and **bold** are the only marks."""

    text: str

    def html(self, at: str = "") -> str:
        """Return one `<p>` for each paragraph."""
        return "\n".join(f"<p>{html_inline(p)}</p>" for p in paragraphs(self.text))

    def markdown(self, at: str = "") -> str:
        """Return each paragraph as one line."""
        return "\n\n".join(map(markdown_line, paragraphs(self.text)))


@dataclass(frozen=True)
class Remarks:
    """Sentences that each stand for themselves, and what is said where there are none."""

    items: Sequence[str]
    otherwise: str = ""

    def html(self, at: str = "") -> str:
        """Return a paragraph for each."""
        return Text("\n\n".join(self.items) or self.otherwise).html(at)

    def markdown(self, at: str = "") -> str:
        """Return a list."""
        return "\n".join(f"- {markdown_line(item)}" for item in self.items) or Text(self.otherwise).markdown(at)


@dataclass(frozen=True)
class Command:
    """A command to copy: one click selects all of it."""

    text: str

    def html(self, at: str = "") -> str:
        """Return the command as a code block."""
        # The leading newline of <pre> is dropped by HTML, so the text never loses a line of its own.
        return f'<pre class="command" tabindex="0"><code>{html_text(self.text.strip())}</code></pre>'

    def markdown(self, at: str = "") -> str:
        """Return the command without the folders of the machine it ran on: those say nothing to others."""
        command = portable(self.text.strip())
        longest = max(map(len, re.findall("`+", command)), default=0)
        # A span of code may hold backticks if those around it are more.
        return f"`{command}`" if not longest else f"{'`' * (longest + 1)} {command} {'`' * (longest + 1)}"


@dataclass(frozen=True)
class KeyValues:
    """A configuration or an environment, folded away under its title; nested keys are joined by dots."""

    mapping: Mapping[str, object]
    title: str
    open: bool = False

    def html(self, at: str = "") -> str:
        """Return a `<details>` with one line for each key."""
        pairs = list(_flat(self.mapping))
        lines = "\n".join(f"<div><dt>{html_text(key)}</dt><dd>{_html_value(value)}</dd></div>" for key, value in pairs)
        body = f"<dl>\n{lines}\n</dl>" if pairs else '<p class="muted">empty</p>'
        count = f"{len(pairs)} {'entry' if len(pairs) == 1 else 'entries'}"
        return (
            f'<details class="values"{" open" if self.open else ""}>\n'
            f'<summary>{html_text(self.title)} <span class="muted">{count}</span></summary>\n'
            f"{body}\n</details>"
        )

    def markdown(self, at: str = "") -> str:
        """Return a table of two columns, headed by the title."""
        return "\n".join(markdown([self.title, ""], [[key, _value(value)[0]] for key, value in _flat(self.mapping)]))


def _flat(mapping: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: object) -> tuple[str, bool]:
    """What is written for a value, and whether there is one at all."""
    if value is None:
        return "none", False
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return ("empty", False) if value == "" else (str(value), True)


def _html_value(value: object) -> str:
    text, there = _value(value)
    return html_text(text) if there else f'<span class="muted">{text}</span>'


# ----------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Column:
    """A column's heading and how its cells are set.

    Args:
        title: The heading.
        numeric: Right-aligned with tabular numerals. None decides by what the column holds.
        digits: Decimals of cells given as floats; None: four significant digits.
        detail: A small second line of the heading, such as a unit; on the page alone.
    """

    title: str
    numeric: bool | None = None
    digits: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Cell:
    """A table cell with more than its text; a results file shows the text alone.

    Args:
        text: The value; None says that it was not run.
        detail: A small second line, such as "95 % CI .91-.95, n = 5".
        emphasis: Set in bold.
        bar: A tiny horizontal bar of this share, 0 to 1. Its colour is that of the cell, else of the row's
            first cell.
        color: "#rrggbb", of the bar, or of a mark before the text without one.
    """

    text: object
    detail: str = ""
    emphasis: bool = False
    bar: float | None = None
    color: str = ""

    def __post_init__(self) -> None:
        if self.color and re.fullmatch("#[0-9a-f]{6}", self.color) is None:
            raise ValueError(f"a color is written #rrggbb, not {self.color!r} (cell {self.text!r})")
        if self.bar is not None and not 0 <= self.bar <= 1:  # false for NaN too
            raise ValueError(f"a bar's share must lie in 0..1, not {self.bar!r} (cell {self.text!r})")


@dataclass(frozen=True)
class Group:
    """A row that heads the rows below it."""

    heading: str


Record = Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. A cell that is None reads "not run".

    Args:
        columns: The headings; a plain string is a `Column` with the defaults.
        rows: Sequences with one cell for each column (str, number, None or `Cell`), or `Group`s.
        caption: What the table shows; stands above it on the page. In a results file the section's title says it.
        note: A remark below it.

    Raises:
        ValueError: A row has more or fewer cells than there are columns.
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

    @classmethod
    def of(
        cls, records: Sequence[Record | Group], columns: Sequence[str | Column], caption: str, note: str = ""
    ) -> Table:
        """Make the table that shows these columns of some records.

        Args:
            records: Values by the title of their column; what a record lacks was not run.
            columns: Which to show.
            caption: As for the class.
            note: As for the class.
        """
        titles = [column.title if isinstance(column, Column) else column for column in columns]
        rows = [r if isinstance(r, Group) else [r.get(title) for title in titles] for r in records]
        return cls(columns, rows, caption, note)

    def html(self, at: str = "") -> str:
        """Return the table, its caption and its note; a wide one scrolls inside its own frame."""
        columns = self._columns
        numeric = [self._is_numeric(i, column) for i, column in enumerate(columns)]
        head = "".join(
            f'<th scope="col"{_NUMBER_CLASS if right else ""}>{html_words(column.title)}{_detail(column.detail)}</th>'
            for column, right in zip(columns, numeric, strict=True)
        )
        bodies: list[list[str]] = [[]]
        for row in self.rows:
            if isinstance(row, Group):
                bodies.append(
                    [
                        f'<tr class="group"><th scope="rowgroup" colspan="{len(columns)}">'
                        f"<span>{html_words(row.heading)}</span></th></tr>"
                    ]
                )
            else:
                bodies[-1].append(_html_row(row, columns, numeric))
        body = "\n".join("<tbody>\n" + "\n".join(lines) + "\n</tbody>" for lines in bodies if lines)
        if not self.rows:
            body = f'<tbody><tr><td colspan="{len(columns)}" class="muted">no rows</td></tr></tbody>'
        note = f'\n<p class="note">{html_inline(self.note)}</p>' if self.note else ""
        # The caption stands outside the frame that scrolls: it wraps on a phone instead of sliding away.
        return (
            f'<figure class="table">\n<figcaption>{html_inline(self.caption)}</figcaption>\n'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html_label(self.caption)}">\n'
            f"<table>\n<thead><tr>{head}</tr></thead>\n{body}\n</table>\n</div>{note}\n</figure>"
        )

    def markdown(self, at: str = "") -> str:
        """Return the table and its note; a group's heading stands in a row of its own."""
        columns = self._columns
        rows = [
            [f"**{row.heading}**", *[""] * (len(columns) - 1)]
            if isinstance(row, Group)
            else _markdown_row(row, columns)
            for row in self.rows
        ]
        table = "\n".join(markdown([column.title for column in columns], rows))
        return f"{table}\n\n{markdown_line(self.note)}" if self.note else table

    @property
    def _columns(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column) for column in self.columns]

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


def _mark(color: str) -> str:
    return f'<span class="mark" style="background:{color}"></span>' if color else ""


def _detail(text: str) -> str:
    return f'<small class="detail">{html_words(text)}</small>' if text else ""


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


def _html_row(row: Sequence[object], columns: Sequence[Column], numeric: Sequence[bool]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    row_color = cells[0].color if cells else ""
    out = []
    for i, (cell, column, right) in enumerate(zip(cells, columns, numeric, strict=True)):
        if cell.text is None:
            text = f'<span class="muted">{NOT_RUN}</span>'
        else:
            text = html_words(_number(cell.text, column.digits))
        if cell.emphasis:
            text = f"<strong>{text}</strong>"
        bar = ""
        if cell.bar is not None:
            color = cell.color or row_color
            ink = f";background:{color}" if color else ""
            bar = f'<span class="bar"><span style="width:{cell.bar * 100:.4g}%{ink}"></span></span>'
        mark = _mark(cell.color) if cell.bar is None else ""
        tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
        classes = _NUMBER_CLASS if right else ""
        out.append(f"<{tag}{scope}{classes}>{mark}{text}{bar}{_detail(cell.detail)}</{tag}>")
    return f"<tr>{''.join(out)}</tr>"


def _markdown_row(row: Sequence[object], columns: Sequence[Column]) -> list[str]:
    """The cells' texts; what was not run is said once and left empty in the cells after it."""
    values = [cell.text if isinstance(cell, Cell) else cell for cell in row]
    absent = [i for i, value in enumerate(values) if value is None]
    return [
        _number(value, column.digits) if value is not None else NOT_RUN if i == absent[0] else ""
        for i, (value, column) in enumerate(zip(values, columns, strict=True))
    ]


# ---------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Figure:
    """A drawing: inlined into the page as SVG, a picture beside the results file.

    In the page its ids are renamed so that several drawings can share it, and only what draws is kept, see
    :mod:`.svg`.

    Args:
        drawing: The SVG document, or what makes a matplotlib figure, anew at every call.
        caption: What the figure shows; stands below it.
        alt: The same for readers who cannot see it.
        name: Of its file beside the results file; "" leaves it to the page.
        dpi: Dots per inch of that file.
        format: Of that file: "jpeg" where most of the figure is photographs.
        lead: What the page says before the caption, such as which figure of the paper is drawn again.

    Raises:
        ValueError: The document is not SVG, or there is a name but nothing that makes a picture.
    """

    drawing: str | Callable[[], Drawing]
    caption: str
    alt: str
    name: str = ""
    dpi: int = 110
    format: Literal["png", "jpeg"] = "png"
    lead: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.drawing, str):
            svg.check(self.drawing)  # so that a bad drawing is reported where it was made
            if self.name:
                raise ValueError(f"the figure {self.name!r} is SVG alone: give what draws it, so that it can be kept")

    def html(self, at: str = "") -> str:
        """Return the drawing on a light card with its caption."""
        document = self.drawing if isinstance(self.drawing, str) else _figures().svg(self.drawing())
        place = at or "svg" + hashlib.sha256(document.encode()).hexdigest()[:10]
        drawing = svg.clean(document, place, self.alt)
        natural = f' style="--natural:{drawing.width:.0f}px"' if drawing.width else ""
        text = f"{self.lead} {self.caption}".strip()
        caption = f"<figcaption>{html_inline(text)}</figcaption>\n" if text else ""
        return (
            f'<figure class="drawing">\n<div class="card"{natural} tabindex="0" role="group"'
            f' aria-label="{html_label(text or self.alt)}">\n{drawing.markup}\n</div>\n{caption}</figure>'
        )

    def markdown(self, at: str = "") -> str:
        """Return a link to the figure's file with the caption; nothing where it has no file."""
        if not self.name:
            return ""
        return f"![{self.name}]({self.file(at)})\n\n{markdown_line(self.caption)}".rstrip()

    def file(self, at: str) -> str:
        """Return the name of the figure's file beside the results file `at`."""
        return f"{at}-{self.name}.{'jpg' if self.format == 'jpeg' else 'png'}"

    def picture(self) -> bytes:
        """Return the content of the figure's file.

        Raises:
            ValueError: The figure is an SVG document.
        """
        if isinstance(self.drawing, str):
            raise ValueError("an SVG document cannot be made a picture")
        make = _figures().jpeg if self.format == "jpeg" else _figures().png
        return make(self.drawing(), self.dpi)

    def vector(self, kind: Literal["pdf", "svg"]) -> bytes:
        """Return the figure for print.

        Raises:
            ValueError: The figure is an SVG document.
        """
        if isinstance(self.drawing, str):
            raise ValueError("an SVG document is not drawn again")
        content: bytes = _figures().vector(self.drawing(), kind)
        return content


def _figures() -> Any:
    # Imported here: whoever writes a table needs no matplotlib.
    from racecar.study.report import figures

    return figures


# --------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdicts:
    """Verdicts by their kind, each kind folded under how many there are; a few that are judged stand open.

    Args:
        items: The verdicts.
        folded: Whether all are folded under words that nothing follows from them, as those of a smoke test are.
    """

    items: Sequence[Verdict]
    folded: bool = False

    def html(self, at: str = "") -> str:
        """Return a `<details>` for each kind, its claims below it."""
        if not self.items:
            return '<p class="muted">no claims</p>'
        kinds = {outcome: [item for item in self.items if item.outcome == outcome] for outcome in OUTCOMES}
        few = len(self.items) - len(kinds[NOT_RUN]) <= _FEW and not self.folded
        found = "\n".join(
            f'<details class="kind"{" open" if few and outcome != NOT_RUN else ""}>\n'
            f"<summary>{_badge(outcome, f'{len(items)} {outcome}')}</summary>\n{self._list(items)}\n</details>"
            for outcome, items in kinds.items()
            if items
        )
        if not self.folded:
            return found
        title = f"{len(self.items)} claims and what the numbers of this smoke test say of them: nothing follows"
        return f'<details class="kinds">\n<summary class="muted">{title}</summary>\n{found}\n</details>'

    @staticmethod
    def _list(items: Sequence[Verdict]) -> str:
        entries = "\n".join(
            f'<li><p class="claim">{html_inline(item.claim)} <span class="where">{html_words(item.where)}</span></p>'
            + (f'<p class="evidence">{html_inline(item.evidence)}</p>' if item.evidence else "")
            + "</li>"
            for item in items
        )
        return f'<ol class="verdicts">\n{entries}\n</ol>'

    def markdown(self, at: str = "") -> str:
        """Return a table."""
        header = ["claim of the paper", "where", "verdict", "evidence"]
        return "\n".join(markdown(header, [[v.claim, v.where, v.outcome, v.evidence] for v in self.items]))


def _badge(outcome: str, text: str) -> str:
    return (
        f'<span class="badge {outcome.replace(" ", "-")}">'
        f'<span aria-hidden="true">{_SIGNS[outcome]}</span> {text}</span>'
    )
