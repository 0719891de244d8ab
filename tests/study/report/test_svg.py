"""A drawing in a page: it keeps what draws, has ids of its own, brings no code and fetches nothing."""

import re

import matplotlib.pyplot as plt
import pytest

from racecar.study.report import Figure

from ...support.parsed_html import DRAWING, Audit


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


def test_greys_follow_the_page_and_colours_stay() -> None:
    svg = (
        '<svg><path style="fill: #ffffff; stroke: black"/><path style="fill: #666; stroke: #2b62d9"/>'
        '<g id="as-drawn"><text style="fill: #ffffff">x</text></g><g id="as-drawn"/></svg>'
    )
    audit = Audit(Figure(svg, "", "").html())

    assert [a["style"] for tag, a in audit.elements if tag in ("path", "text")] == [
        "fill: var(--card); stroke: var(--ink)",
        "fill: color-mix(in srgb, var(--ink) 60%, var(--card)); stroke: #2b62d9",
        "fill: #ffffff",
    ]
    assert not audit.ids()


def test_a_plotted_figure_has_no_paper_of_its_own() -> None:
    def draw() -> plt.Figure:
        figure, axis = plt.subplots()
        axis.plot([0, 1], color="#2b62d9")
        return figure

    html = Figure(draw, "", "").html()

    assert "#2b62d9" in html
    assert not re.search('#ffffff|#000000|var\\(--card\\)"', html)
    assert "fill: var(--card)" not in html
