"""The report's building blocks in HTML: text, commands, values, tables, verdicts."""

import re

import pytest

from racecar.study.report import Cell, Column, Command, Group, KeyValues, Table, Text, Verdict, Verdicts

from ...support.parsed_html import Audit


def table(*rows: object, columns: tuple[str | Column, ...] = ("Name", "Value")) -> Table:
    return Table(columns, rows, "A caption")  # type: ignore[arg-type]


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


def test_bars_take_the_colour_of_cell_or_row() -> None:
    rows = (
        [Cell("Std", color="#d29306"), Cell(0.5, bar=0.5)],
        ["x", Cell(1, bar=1)],
        ["y", Cell(0, bar=0, color="#2b62d9")],
    )
    html = table(*rows).html()

    assert re.findall(r'class="bar"><span style="([^"]*)"', html) == [
        "width:50%;background:#d29306",
        "width:100%",
        "width:0%;background:#2b62d9",
    ]
    assert re.findall(r'class="mark" style="([^"]*)"></span>(\w+)', html) == [("background:#d29306", "Std")]


@pytest.mark.parametrize("bar", [-0.1, 1.1, float("nan")])
def test_a_bar_outside_its_range_is_refused(bar: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Cell("x", bar=bar)


def test_a_row_of_the_wrong_length_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"row 2 of the table 'A caption' has 3 cells for 2 columns"):
        table(["a", 1], ["b", 2, 3])


def test_what_is_no_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="written #rrggbb, not 'red;x'"):
        Cell("x", color="red;x")


def test_an_empty_table_says_so() -> None:
    assert "no rows" in Audit(table().html()).text


# ---------------------------------------------------------------------------------------------- verdicts


def test_verdicts_are_counted_and_said_in_words() -> None:
    items = [
        Verdict("A", "Section 1", "reproduced", ""),
        Verdict("B", "Section 2", "not reproduced", "`x`"),
        Verdict("C", "Section 3", "reproduced", ""),
        Verdict("D", "Section 4", "not run", ""),
    ]
    text = Audit(Verdicts(items).html()).text

    for said in ("✓ 2 reproduced", "✕ 1 not reproduced", "– 1 not run", "✕ 1 not reproduced B Section 2"):
        assert said in text
    assert "undecided" not in text
    kinds = [attributes for tag, attributes in Audit(Verdicts(items).html()).elements if tag == "details"]
    assert ["open" in kind for kind in kinds] == [True, True, False]  # what was not run is folded
    assert " open" not in Verdicts(items, folded=True).html()
    assert " open" not in Verdicts(items * 2).html()
    assert "no claims" in Verdicts([]).html()


def test_an_unknown_outcome_is_refused_with_those_allowed() -> None:
    with pytest.raises(
        ValueError, match=r"'maybe'.*'reproduced', 'equivalent', 'not reproduced', 'undecided', 'not run'"
    ):
        Verdict("A", "Section 1", "maybe", "")  # type: ignore[arg-type]
