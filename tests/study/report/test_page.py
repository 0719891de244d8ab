"""The whole page: escaping, self-containment, ids, contents and the atomic write."""

import errno
import io
import os
import re
import tempfile
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

from ...support.parsed_html import DRAWING, Audit

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&</style></td>"


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
                        [text, Column(text, detail=text), "Third"],
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


def test_the_answer_and_its_figure_stand_before_the_contents() -> None:
    figure = Figure(DRAWING, "what it shows", "alt")
    page = Page("T", "of 3 images", [Section("A", [])], [Text("x")], "c", answer="**Yes.**", figure=figure)
    html = page.html()

    places = [html.index(part) for part in ("<strong>Yes.", "what it shows", "of 3 images", "<nav", "<h2>Verdicts")]
    assert places == sorted(places)
    assert "open" not in next(a for tag, a in Audit(html).elements if tag == "details")
    assert "**Yes.**" in page.markdown()


def test_a_smoke_test_says_so_above_all() -> None:
    page = Page("T", "S", [], command="c", smoke_test=True)

    assert page.html().index("no conclusions") < page.html().index("<main")
    assert page.markdown().splitlines()[2].startswith("**Smoke test: no conclusions.")
    assert "no conclusions" not in Page("T", "S", [], command="c").html()


def test_a_page_renders_the_same_each_time() -> None:
    assert full_page().html() == full_page().html()


def test_footer_says_the_command() -> None:
    assert Page("T", "S", [], command="racecar report 'a b'").html().count("racecar report &#x27;a b&#x27;") == 1
    assert Page("T", "S", []).command  # that of this process


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


def test_on_a_terminal_it_is_one_line() -> None:
    page = Page("Study", "about", [], setting="own", answer="**RR^6 is ahead: reproduced.**\nBy -0.1.")
    assert page.said() == "Study (own): RR⁶ is ahead: reproduced. By −0.1."
    assert (
        Page("Study", "about", [], answer="x", smoke_test=True).said().startswith("Study: Smoke test: no conclusions.")
    )
    assert Page("Study", "about", []).said() == "Study"
