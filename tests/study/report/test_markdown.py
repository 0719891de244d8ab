"""The results file: the cells and verdicts of the page, harmless whatever the text, with its figures beside it."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from racecar.study.report import (
    Cell,
    Column,
    Command,
    Figure,
    Group,
    KeyValues,
    Only,
    Page,
    Provenance,
    Remarks,
    Section,
    Table,
    Text,
    Verdict,
    Verdicts,
    write_figures,
    write_results,
)

markdown_it = pytest.importorskip("markdown_it")

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
ABOUT = {
    "command": "racecar study digits --data /home/someone/data --out /home/someone/runs",
    "environment": {"processor": "a CPU", "torch": "2", "python": "3.11", "revision": "abc"},
    "seconds": 12.4,
}


class Reader(HTMLParser):
    """Rows of the tables of a document, its headings, and the tags it has."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._into: Callable[[str], None] | None = None
        self._small = 0
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = self._cell
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")
            self._into = self._heading
        self._small += tag == "small"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h1", "h2", "h3"):
            self._into = None
        self._small -= tag == "small"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._into is not None and not self._small:
            self._into(data)

    def _cell(self, data: str) -> None:
        self.rows[-1][-1] += data

    def _heading(self, data: str) -> None:
        self.headings[-1] += data


def read(markdown: str) -> Reader:
    """A results file as a viewer of Markdown shows it that lets HTML through."""
    return Reader(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def drawn():
    from matplotlib.figure import Figure as Drawing

    figure = Drawing(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


def page() -> Page:
    table = Table(
        ["model", Column("accuracy", digits=2), "n"],
        [
            Group("Phase I"),
            [Cell("RR^3_A", color="#2c8737"), Cell(0.123, bar=0.1, emphasis=True), 5],
            ["a | b", -1.5, 3],
        ],
        caption="A caption",
        note="A **note** with `code`.",
    )
    return Page(
        "Title",
        "on the page alone",
        [
            Section("Numbers", [table, Figure(drawn, "Drawn", "alt", name="lines", lead="**Figure 1**.")], lead="page"),
            Section("Drawings alone", [Figure(SVG, "without a file", "alt")], lead="page"),
            Section("What was not run", [Remarks(["First.", "Second."])], short="Not run"),
            Section("Notes", [Only("page", Text("for the page")), Only("results", Text("for the file"))]),
        ],
        summary_blocks=[
            Verdicts([Verdict("A > B", "Table 2", "reproduced", "by 3"), Verdict("C", "D", "not run", "")])
        ],
        command="racecar report",
        setting="small preset",
        provenance=Provenance(ABOUT, {"seeds": 3}, "Task A: MNIST.", "4 networks", "n = 3 seeds (0 to 2)."),
        name="digits-small",
    )


def test_the_page_and_the_results_file_show_the_same_cells_and_verdicts() -> None:
    html, markdown = page().html(), page().markdown()
    shown, kept = Reader(html), read(markdown)

    set_alike = [[cell.replace("³_", "3") for cell in row] for row in kept.rows[-4:]]  # elements of the page lose it
    assert [[*row, "", ""] if row == ["Phase I"] else row for row in shown.rows] == set_alike
    assert kept.rows[-2:] == [["RR³_A", "0.12", "5"], ["a | b", "−1.50", "3"]]
    for verdict in page().summary_blocks[0].items:  # type: ignore[attr-defined]
        assert [verdict.claim, verdict.where, verdict.outcome, verdict.evidence] in kept.rows
        for part in (verdict.claim, verdict.where, verdict.outcome):
            assert part in shown.text
    for text in ("A note with code.", "First.", "Second."):
        assert text in shown.text
        assert text in kept.text


def test_the_results_file_begins_with_the_command_and_ends_with_the_figures() -> None:
    lines = page().markdown().splitlines()

    assert lines[:5] == [
        "# Title, small preset",
        "",
        "`racecar study digits --data DATA --out OUT`",
        "",
        "Task A: MNIST. a CPU, torch 2, Python 3.11, revision abc; 4 networks in 12 s. n = 3 seeds (0 to 2).",
    ]
    assert [line for line in lines if line.startswith("## ")] == [
        "## Verdicts",
        "## Numbers",
        "## Not run",
        "## Notes",
        "## Figures",
    ]
    assert lines[-3:] == ["![lines](digits-small-lines.png)", "", "Drawn"]
    assert sum("lines.png" in line for line in lines) == 1


def test_what_only_one_shows_is_not_in_the_other() -> None:
    html, markdown = page().html(), page().markdown()

    assert "for the page" in html
    assert "for the page" not in markdown
    assert "for the file" not in html
    assert "for the file" in markdown
    assert "<strong>Figure 1</strong>. Drawn" in html
    assert "/home/someone/runs" in html  # the page is for who ran it
    assert "How it was run" in html


def test_a_block_for_the_results_file_takes_no_number_in_the_page() -> None:
    drawing = Figure(SVG.replace("/>", '><g id="x"/></svg>'), "", "")
    alone = Page("T", "S", [Section("A", [drawing])], command="c").html()

    assert Page("T", "S", [Section("A", [Only("results", Text("t")), drawing])], command="c").html() == alone


def test_results_are_written_with_their_figures(tmp_path: Path) -> None:
    written = write_results(page(), tmp_path / "new")

    assert [p.name for p in written] == ["digits-small.md", "digits-small-lines.png"]
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert written[0].read_text(encoding="utf-8") == page().markdown()
    assert written[1].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no name for its results file"):
        write_results(Page("T", "S", []), tmp_path)


def test_figures_for_print_are_vectors_with_words_and_fine_pictures(tmp_path: Path) -> None:
    def photograph():
        from matplotlib.figure import Figure as Drawing

        figure = Drawing(figsize=(2, 2))
        figure.add_axes((0, 0, 1, 1)).imshow([[0.0, 1.0]], aspect="auto")
        return figure

    written = write_figures(replace(page(), figure=Figure(photograph, "c", "a")), tmp_path / "new")
    contents = {p.name: p.read_bytes() for p in written}

    assert [*contents] == [f"digits-small-{name}.{kind}" for name in ("1", "lines") for kind in ("pdf", "svg")]
    assert contents["digits-small-lines.pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in contents["digits-small-lines.pdf"]
    assert b"<svg" in contents["digits-small-lines.svg"]
    assert b"/Width 600" in contents["digits-small-1.pdf"]  # 2 inches at 300 dots


def test_a_figure_is_drawn_as_its_format_says(tmp_path: Path) -> None:
    photographs = Figure(drawn, "c", "a", name="sheet", format="jpeg", dpi=50)

    assert photographs.markdown("study") == "![sheet](study-sheet.jpg)\n\nc"
    assert photographs.picture().startswith(b"\xff\xd8")
    assert photographs.html("f") == photographs.html("f")
    assert len(Figure(drawn, "c", "a", name="x", dpi=200).picture()) > len(Figure(drawn, "c", "a", name="x").picture())
    with pytest.raises(ValueError, match="SVG alone"):
        Figure(SVG, "c", "a", name="x")


def test_a_table_of_records_leaves_to_not_run_what_a_record_lacks() -> None:
    table = Table.of([{"a": 1, "b": 2, "c": 3}, {"a": 4}], ["a", Column("c"), "b"], "caption")

    assert table.rows == [[1, 3, 2], [4, None, None]]
    assert Reader(table.html()).rows[-1] == ["4", "not run", "not run"]
    assert read(table.markdown()).rows[-1] == ["4", "not run", ""]  # once is enough in a line of Markdown


def test_values_and_commands_can_stand_in_a_results_file() -> None:
    values = KeyValues({"a": {"b": None}, "c": [1, 2], "d": ""}, "Configuration")

    assert read(values.markdown()).rows == [["Configuration", ""], ["a.b", "none"], ["c", "1, 2"], ["d", "empty"]]
    assert read(Command("echo `x` ``").markdown()).text.strip() == "echo `x` ``"


# --- whatever the text ------------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "<!-- ",
    "a|b\nc",
    "x\n\n# heading\n\n- item\n\n> quotation",
    "[text](javascript:alert(1))",
    "![](http://evil.test/x.png)",
    "[a]: http://evil.test",
    "``<b>`",
    "\\`<b>`",
    "\\|<b>",
    "`a|b`",
    "&lt;b&gt;",
    "1. one",
    "-",
    "---",
    "~~~",
    "```",
    "    code",
    "\x00\ud800",
)
NASTY = st.text(st.sampled_from("<>&|`\\[](){}!#-+=~:;/.1ab\n \x00\ud800"), max_size=24)


def without_marks(text: str) -> str:
    """What is seen of a text, whatever its spaces and whether something in it is code."""
    return re.sub(r"[`\s]", "", re.sub("[\x00\ud800]", "\ufffd", text)).replace("−", "-")


def check(text: str) -> None:
    paragraph, row = read(Text(f"a {text}").markdown()), read(Table([text, "y"], [["x", text]], "", text).markdown())
    assert paragraph.tags <= {"p", "code"}
    assert without_marks(paragraph.text) == without_marks(f"a {text}")
    assert row.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "code"}
    assert [[without_marks(c) for c in cells] for cells in row.rows] == [
        [without_marks(text), "y"],
        ["x", without_marks(text)],
    ]
    started = read(Text(text).markdown())
    assert started.tags <= {"p", "code"}
    assert without_marks(started.text) == without_marks(text)
    bullet = read(Remarks([text.strip() or "x", "y"]).markdown())
    assert bullet.tags <= {"ul", "li", "p", "code"}
    judged = read(Verdicts([Verdict(text, text, "reproduced", text)]).markdown())
    assert [without_marks(c) for c in judged.rows[1]] == [*[without_marks(text)] * 2, "reproduced", without_marks(text)]
    titled = read(Page(text, "", [Section(text, [Text("x")])], command="").markdown())
    assert titled.tags <= {"h1", "h2", "p", "code"}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_brings_no_markup_of_its_own(text: str) -> None:
    check(text)


@given(NASTY)
def test_no_text_at_all_brings_markup_of_its_own(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "95 % CI [−0.0077, −0.0027], n = 5; I(X;L_6) < 3 & more",
        "**Figure 8**: `code` with `<b>` (RR⁶_A seed 0). Clipped to 0 … 1.",
        "E < 1, a <- b, R&D, RR^…s: 1 − SSIM; [1] and (2)",
    ],
)
def test_ordinary_text_is_written_as_it_is(text: str) -> None:
    assert Text(text).markdown() == text
    assert f"| {text} |" in Table(["a"], [[text]], "").markdown()
