"""How names and numbers are set: exponents, indices and minus signs, and what is left as it is written."""

import pytest

from racecar.study.report import Page, Section, Table, Text
from racecar.study.report.typography import html, minus, plain


@pytest.mark.parametrize(
    ("written", "page", "elsewhere"),
    [
        ("RR^6_AB", "RR<sup>6</sup><sub>AB</sub>", "RR⁶_AB"),
        ("RR^13s_AB1-leaky", "RR<sup>13s</sup><sub>AB1-leaky</sub>", "RR¹³ˢ_AB1-leaky"),
        ("RR^3-every4_A", "RR<sup>3</sup>-every4<sub>A</sub>", "RR³-every4_A"),
        ("Dec^1-white, Std.", "Dec<sup>1</sup>-white, Std.", "Dec¹-white, Std."),
        ("Std_B-10pct", "Std<sub>B-10pct</sub>", "Std_B-10pct"),
        ("RR^…s: shared", "RR<sup>…s</sup>: shared", "RR^…s: shared"),
        ("RR^1's probe (RR^7)", "RR<sup>1</sup>'s probe (RR<sup>7</sup>)", "RR¹'s probe (RR⁷)"),
        ("I(X;L_6), p_AB − p_B", "I(X;L<sub>6</sub>), p<sub>AB</sub> − p<sub>B</sub>", "I(X;L_6), p_AB − p_B"),
    ],
)
def test_names_have_exponents_and_indices(written: str, page: str, elsewhere: str) -> None:
    assert html(written) == page
    assert plain(written) == elsewhere


@pytest.mark.parametrize("text", ["A_B", "my_RR^2", "ERR^2_A", "RR2", "Stdlib_A", "x^2", "a_L_6", "RR^6_Cat"])
def test_other_names_stay(text: str) -> None:
    assert html(text) == plain(text) == text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[-0.003, +0.025]", "[−0.003, +0.025]"),
        ("-.5 and -1.2e-05", "−.5 and −1.2e−05"),
        ("1e-3, 5.E-07", "1e−3, 5.E−07"),
        ("2026-11-29, 0-1, AB-1pct, -10pct, --seeds -x", "2026-11-29, 0-1, AB-1pct, -10pct, --seeds -x"),
        ("runs/x-1, image-2.png, 'a'-1", "runs/x-1, image-2.png, 'a'-1"),
    ],
)
def test_numbers_have_the_minus_sign(written: str, shown: str) -> None:
    assert minus(written) == shown


def test_page_and_results_file_set_them_everywhere_but_in_code() -> None:
    words = "RR^6_AB: -0.5 `RR^6_AB --x -0.5`"
    page = Page("RR^6", "S", [Section(words, [Text(words), Table([words], [[words]], words, words)])], command=words)

    set_so = "RR<sup>6</sup><sub>AB</sub>: −0.5"
    assert page.html().count(set_so) == 7  # contents, heading, text, caption, column, cell, note
    assert "<title>RR⁶</title>" in page.html()
    assert page.markdown().count("RR⁶_AB: −0.5 `RR^6_AB --x -0.5`") == 5
