"""The report's building blocks: escaping, self-containment, ids, tables, verdicts and the atomic write."""

import errno
import io
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from racecar.study.core.errors import StudyError
from racecar.study.report import (
    Cell,
    Column,
    Command,
    Figure,
    Group,
    KeyValues,
    Page,
    Section,
    Table,
    Text,
    Verdict,
    Verdicts,
    write,
)

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&</style></td>"
VOID = {"meta", "link", "br", "img", "hr", "input"}

DRAWING = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="288pt" height="216pt" viewBox="0 0 288 216"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><creator>https://matplotlib.org/</creator></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style><clipPath id="p1"><rect width="9"/></clipPath>
 <pattern id="hatch"/><path id="glyph" d="M 0 0"/></defs>
 <g id="axes_1" clip-path="url(#p1)"><use xlink:href="#glyph" style="fill: url('#hatch'); opacity: 1"/></g>
</svg>"""


class Audit(HTMLParser):
    """Reads a document; notes what is open, the elements with their attributes, and the text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def with_class(self, name: str) -> list[tuple[str, dict[str, str]]]:
        return [(tag, a) for tag, a in self.elements if name in a.get("class", "").split()]


def table(*rows: object, columns: tuple[str | Column, ...] = ("Name", "Value")) -> Table:
    return Table(columns, rows, "A caption")  # type: ignore[arg-type]


def full_page(text: str = "plain", svg: str = DRAWING) -> Page:
    """Build a page with every block, and `text` wherever a text can stand."""
    return Page(
        text,
        text,
        [
            Section(
                text,
                [
                    Text(text),
                    Table(
                        [text, Column(text, variant="rr", detail=text), "Third"],
                        [Group(text), [text, Cell(text, detail=text, emphasis=True, bar=0.5), None]],
                        caption=text,
                        note=text,
                    ),
                    Figure(svg, caption=text, alt=text),
                    Section(text, [Figure(svg, caption=text, alt=text)], lead=text),
                ],
                lead=text,
            ),
            Section(text, [Command(text), KeyValues({text: text, "nested": {"none": None, "list": [text]}}, text)]),
        ],
        summary_blocks=[Verdicts([Verdict(text, text, "reproduced", text)]), Figure(svg, text, text)],
        command=f"racecar {text}",
    )


# ------------------------------------------------------------------------------------------ the whole page


@pytest.mark.parametrize("text", ["plain", HOSTILE, "\x00\x1b[31m\ud800", "λ − “quoted” `code` **bold** `x", ""])
def test_page_is_well_formed_whatever_the_text(text: str) -> None:
    plain, page = Audit(full_page().html()), Audit(full_page(text).html())

    assert {"script", "img"}.isdisjoint(page.tags)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.tags.count("table") == plain.tags.count("table")
    if text == HOSTILE:
        assert page.tags == plain.tags
        # Shown as it is wherever it was given, none lost.
        assert page.text.count(HOSTILE) == plain.text.count("plain")
        assert [a["aria-label"] for tag, a in page.elements if tag == "svg"] == [HOSTILE] * 3


def test_page_can_be_encoded_and_read_back_with_any_character(tmp_path: Path) -> None:
    path = write(full_page("\x00 \ud800 λ"), tmp_path / "report.html")

    assert "� � λ" in path.read_text(encoding="utf-8")


def test_page_refers_to_nothing_outside() -> None:
    document = full_page().html()
    page = Audit(document)

    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"@import|@font-face|url\(\s*['\"]?(?!#)", document)
    assert "http" not in document.replace("http-equiv", "")


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    document = full_page().html()
    page = Audit(document)
    ids = page.ids()

    assert len(ids) == len(set(ids))
    assert sum(i.endswith("glyph") for i in ids) == 3
    links = [a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")]
    urls = re.findall(r"url\(#([^)'\"]+)\)", document)
    assert len(urls) == 6
    assert set(links) | set(urls) <= set(ids)


def test_contents_lead_to_sections_even_under_one_title() -> None:
    sections = [Section("Results", []), Section("Results", [Section("Inner", [])]), Section("Results 2", [])]
    page = Audit(Page("T", "S", sections, [Text("x")], command="c").html())

    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links == ["#summary", "#results", "#results-2", "#results-2.1", "#results-2-2"]
    assert {link[1:] for link in links} <= set(page.ids())


def test_a_page_renders_the_same_each_time() -> None:
    assert full_page().html() == full_page().html()


def test_footer_says_the_command() -> None:
    assert Page("T", "S", [], command="racecar report 'a b'").html().count("racecar report &#x27;a b&#x27;") == 1
    assert Page("T", "S", []).command  # that of this process


# -------------------------------------------------------------------------------------------------- text


def test_text_knows_paragraphs_code_and_bold_only() -> None:
    html = Text("One `a < **b**` and **two `c`**.\n\n\n# 2 * 3 ** 4 <b>\n").html()

    assert html == ("<p>One <code>a &lt; **b**</code> and **two <code>c</code>**.</p>\n<p># 2 * 3 ** 4 &lt;b&gt;</p>")
    assert Text("**a** b **c**").html() == "<p><strong>a</strong> b <strong>c</strong></p>"


def test_command_keeps_its_lines() -> None:
    assert "a --b \\\n  --c &lt;d&gt;</code>" in Command("a --b \\\n  --c <d>\n").html()


def test_values_are_folded_flat_and_none_is_said() -> None:
    audit = Audit(KeyValues({"a": {"b": 1, "c": None}, "d": (1, 2), "e": {}}, "Configuration").html())

    assert "a.b1" in audit.text
    assert "a.cnone" in audit.text
    assert "d1, 2" in audit.text
    assert ("details", {"class": "values"}) in audit.elements
    assert "open" in Audit(KeyValues({}, "C", open=True).html()).elements[0][1]


# ------------------------------------------------------------------------------------------------ tables


def test_a_cell_that_is_none_says_not_run() -> None:
    assert Audit(table(["a", None]).html()).text.count("not run") == 1
    assert Audit(table(["a", Cell(None, detail="no GPU")]).html()).text.endswith("not runno GPU")
    assert "not run" not in table(["a", 0], ["b", ""]).html()


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([0.5, 1], True),
        (["0.91", Cell("−0.02"), None, "—"], True),
        (["12.5 %", "0.31 ± 0.09", "< 1e-4"], True),
        ([None, None], True),
        ([1, "one"], False),
        ([True, False], False),
        (["adam"], False),
    ],
)
def test_columns_of_numbers_stand_right(values: list[object], right: bool) -> None:
    audit = Audit(table(*[["name", value] for value in values]).html())

    assert len(audit.with_class("number")) == (1 + len(values) if right else 0)


def test_a_column_can_say_itself_whether_it_is_numeric() -> None:
    columns = (Column("Layer", numeric=True), Column("Value", numeric=False))

    tags = [tag for tag, _ in Audit(table([1, 2], columns=columns).html()).with_class("number")]
    assert tags == ["th", "th"]  # the heading and the row's name


def test_numbers_are_written_alike() -> None:
    columns = ("Name", Column("Fixed", digits=2), "Free")
    text = Audit(
        table(["a", -0.5, -0.000123456], ["b", 1, float("nan")], ["c", -0.001, -3], columns=columns).html()
    ).text

    assert "a−0.50−0.0001235 b1nan c0.00−3" in text


def test_groups_head_their_rows() -> None:
    audit = Audit(table(Group("First"), ["a", 1], Group("Second"), ["b", 2]).html())

    assert audit.tags.count("tbody") == 2
    assert [a["colspan"] for _, a in audit.elements if a.get("scope") == "rowgroup"] == ["2", "2"]


def test_bars_take_the_colour_of_cell_row_or_column() -> None:
    columns = ("Name", Column("Value", variant="ort"))
    rows = (
        [Cell("Std", variant="std"), Cell(0.5, bar=0.5)],
        ["x", Cell(1, bar=1)],
        ["y", Cell(0, bar=0, variant="rr")],
    )
    html = table(*rows, columns=columns).html()

    classes = [re.search(r"std|rr|ort", a["class"])[0] for tag, a in Audit(html).elements if tag == "td"]  # type: ignore[index]
    assert classes == ["std", "ort", "rr"]
    assert re.findall(r"width:([\d.]+%)", html) == ["50%", "100%", "0%"]


@pytest.mark.parametrize("bar", [-0.1, 1.1, float("nan")])
def test_a_bar_outside_its_range_is_refused(bar: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Cell("x", bar=bar)


def test_a_row_of_the_wrong_length_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"row 2 of the table 'A caption' has 3 cells for 2 columns"):
        table(["a", 1], ["b", 2, 3])


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'blue'.*'ort'"):
        Cell("x", variant="blue")


def test_an_empty_table_says_so() -> None:
    assert "no rows" in Audit(table().html()).text


# ----------------------------------------------------------------------------------------------- figures


def test_a_figure_keeps_its_drawing_and_leaves_the_rest() -> None:
    html = Figure(DRAWING, "Caption", alt='An "alt"').html("here")
    audit = Audit(html)
    root = dict(audit.elements)["svg"]

    assert {"style", "metadata"}.isdisjoint(audit.tags)
    assert "<?xml" not in html
    assert "<!DOCTYPE" not in html
    assert (root["role"], root["aria-label"]) == ("img", 'An "alt"')
    assert "width" not in root
    assert root["viewbox"] == "0 0 288 216"
    assert "--natural:384px" in html
    assert 'clip-path="url(#here.p1)"' in html
    assert 'href="#here.glyph" style="fill: url(#here.hatch); opacity: 1"' in html


def test_two_figures_do_not_clash_even_without_a_page() -> None:
    other = DRAWING.replace("288", "300")

    assert not set(Audit(Figure(DRAWING, "", "").html()).ids()) & set(Audit(Figure(other, "", "").html()).ids())


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<g onload="alert(1)"/>',
        '<foreignObject><iframe src="https://evil.test"/></foreignObject>',
        '<a xlink:href="javascript:alert(1)"><path d="M 0 0"/></a>',
        '<use xlink:href="https://evil.test/x.svg#a"/>',
        '<image href="https://evil.test/x.png"/>',
        '<image href="data:image/svg+xml;base64,AAAA"/>',
        '<path style="fill: url(https://evil.test/#a)"/>',
        "<path fill=\"URL( 'https://evil.test/#a' )\"/>",
        '<path style="fill:url(https://evil.test"/>',
        '<path style="fill:u\\72l(//evil.test)"/>',
        "<style>@import url(https://evil.test)</style>",
        '<set attributeName="href" to="javascript:alert(1)"/>',
    ],
)
def test_a_drawing_brings_no_code_and_fetches_nothing(inside: str) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'{inside}tail<path id="kept"/></svg>'
    )
    html = Figure(svg, "", "").html("f")
    audit = Audit(html)

    assert not re.search(r"evil|javascript|svg\+xml|onload|alert", html)
    assert {"script", "style", "a", "iframe", "set"}.isdisjoint(audit.tags)
    assert "f.kept" in audit.ids()
    assert audit.text == "tail"


def test_text_around_what_is_left_out_keeps_its_place() -> None:
    svg = "<svg><text>a<script>x</script>b<tspan>c</tspan><script>y</script>d</text></svg>"

    assert "<text>ab<tspan>c</tspan>d</text>" in Figure(svg, "", "").html()


def test_inline_images_stay() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><image href="data:image/png;base64,\niVBO="/></svg>'

    assert "data:image/png;base64," in Figure(svg, "", "").html()


def test_a_drawing_without_a_view_box_can_still_be_scaled() -> None:
    root = Audit(Figure('<svg width="3in" height="96"/>', "", "").html()).elements[2][1]

    assert root["viewbox"] == "0 0 288 96"


@pytest.mark.parametrize("svg", ["", "<svg><g></svg>", "<html/>"])
def test_what_is_not_svg_is_refused(svg: str) -> None:
    with pytest.raises(ValueError, match="figure is not"):
        Figure(svg, "", "")


def test_a_drawing_of_matplotlib_fits_in() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], marker="o")
    axes.bar([0], [1], hatch="//")
    axes.set_title("$\\lambda$ < 1")
    stream = io.StringIO()
    figure.savefig(stream, format="svg")

    document = full_page(svg=stream.getvalue()).html()
    page = Audit(document)
    ids = page.ids()
    used = {a["href"][1:] for tag, a in page.elements if tag == "use"} | set(re.findall(r"url\(#(.+?)\)", document))
    assert len(ids) == len(set(ids))
    assert len(used) > 20
    assert used <= set(ids)
    assert "http" not in document.replace("http-equiv", "")


# ---------------------------------------------------------------------------------------------- verdicts


def test_verdicts_are_counted_and_said_in_words() -> None:
    items = [
        Verdict("A", "Section 1", "reproduced", ""),
        Verdict("B", "Section 2", "not reproduced", "`x`"),
        Verdict("C", "Section 3", "reproduced", ""),
        Verdict("D", "Section 4", "not run", ""),
    ]
    text = Audit(Verdicts(items).html()).text

    for said in ("✓ 2 reproduced", "✕ 1 not reproduced", "– 1 not run", "✕ not reproduced B Section 2"):
        assert said in text
    assert "undecided" not in text
    assert "no claims" in Verdicts([]).html()


def test_an_unknown_outcome_is_refused_with_those_allowed() -> None:
    with pytest.raises(ValueError, match=r"'maybe'.*'reproduced', 'not reproduced', 'undecided', 'not run'"):
        Verdict("A", "Section 1", "maybe", "")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- write


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"

    assert write(full_page("old"), str(path)) == path
    assert write(full_page("new"), path) == path
    assert path.read_text(encoding="utf-8") == full_page("new").html()
    assert os.listdir(path.parent) == ["report.html"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "replace")}[step], fail)
        with pytest.raises(StudyError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
            write(full_page(), path)

    if isinstance(error, OSError):
        assert str(path) in str(raised.value)
        assert "No space left on device" in str(raised.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)  # a mode would not stop root, who runs tests in containers
    with pytest.raises(StudyError, match=f"{re.escape(str(tmp_path))}.*Permission denied"):
        write(full_page(), tmp_path / "report.html")


def test_a_file_in_place_of_the_folder_and_a_folder_in_place_of_the_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StudyError, match=r"cannot write .*file/r\.html: .*(exists|Not a directory)"):
        write(full_page(), tmp_path / "file" / "r.html")

    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyError, match=r"cannot write .*folder: .*directory"):
        write(full_page(), tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
