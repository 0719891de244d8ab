"""Numbers that all studies share: means, intervals, paired differences and verdicts against closed forms."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from scipy import stats

from racecar.study.core.variants import Run, Variant
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.report import Verdicts
from racecar.study.report.figures import Measured, accuracies, png, svg
from racecar.study.report.markdown import file_stem, markdown, portable
from racecar.study.report.models import math_title
from racecar.study.report.results import ONE_SEED, AccuracyResults
from racecar.study.report.statistics import interval, spread

A = [0.91, 0.93, 0.92, 0.95, 0.94]
B = [0.90, 0.925, 0.90, 0.93, 0.915]


def results(values: dict[str, Sequence[float]], paper: dict[str, Sequence[float]] | None = None) -> AccuracyResults:
    runs = [Run.parse(f"{key}/seed-{seed}") for key, v in values.items() for seed in range(max(len(v), 2))]
    done = [(r, values[r.key.partition("/")[0]]) for r in runs]
    metrics = {r: {"accuracy": v[r.seed]} for r, v in done if r.seed < len(v)}
    return AccuracyResults(MutualInformationConfig(), {}, runs, metrics, paper or {})


def test_summary_and_difference_are_students() -> None:
    found = results({"RR6_AB": A, "Std_AB": B})
    ours = found.summary("RR^6_AB")
    low, high = stats.t.interval(0.95, 4, np.mean(A), stats.sem(A))
    assert (ours.n, ours.mean, ours.sd) == (5, pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)))
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))
    gap = found.difference("RR^6_AB", "Std_AB")
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (gap.low, gap.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [(A, B, "reproduced"), (B, A, "not reproduced"), (A, A[1:] + A[:1], "undecided"), (A[:1], B[:1], "not run")],
)
def test_the_verdict_is_that_of_the_paired_test(better, worse, expected) -> None:
    found = results({"RR6_AB": better, "Std_AB": worse}, {"RR^6_AB": (0.9, 1.0), "Std_AB": (0.2, 0.4)})
    verdict = found.gap("words", "Table 2", "RR^6_AB", "Std_AB")
    assert verdict.outcome == expected
    if len(better) > 1:
        significant = stats.ttest_rel(better, worse).pvalue < 0.05
        assert significant == (expected != "undecided")
        assert f"n = {len(better)}" in verdict.evidence
        assert "95 % CI [" in verdict.evidence
        assert "the paper has +0.650" in verdict.evidence
    else:
        assert verdict.evidence == ONE_SEED


@pytest.mark.parametrize(
    ("gains", "delta", "expected", "words"),
    [
        ([0.002, 0.001, 0.003], 0.005, "equivalent", "the 90 % CI lies within ±0.005"),  # and above zero
        ([0.002, 0.0018, 0.0022], 0.001, "reproduced", "n = 3"),
        ([-0.002, -0.0018, -0.0022], 0.001, "not reproduced", "n = 3"),
        ([0.002, 0.001, 0.003], 0.0, "undecided", "n = 3"),  # none declared
        ([0.03, -0.01, 0.01], 0.005, "undecided", "about 171 seeds would find a difference of 0.005"),
    ],
)
def test_a_difference_that_cannot_matter_is_none(gains, delta, expected, words) -> None:
    found = results({"RR6_AB": [0.9 + g for g in gains], "Std_AB": [0.9] * 3})
    verdict = dataclasses.replace(found, delta=delta).gap("words", "Table 2", "RR^6_AB", "Std_AB")
    assert verdict.outcome == expected
    assert words in verdict.evidence
    low, high = stats.t.interval(0.90, 2, np.mean(gains), stats.sem(gains))
    assert (expected == "equivalent") == (-delta < low and high < delta)


def test_a_verdict_names_what_was_not_run() -> None:
    found = results({"RR6_AB": A, "Std_AB": []})
    verdict = found.gap("words", "Table 2", "RR^6_AB", "Std_AB")
    assert (verdict.outcome, verdict.evidence) == ("not run", "Std_AB not run")
    assert found.gap("words", "here", "RR^6_AB", "Dec^6_AB").evidence == "Dec^6_AB not run"


def test_pairs_are_formed_by_seed_and_missing_seeds_stay_empty() -> None:
    found = results({"Std_A": A, "RR6_A": B})
    metrics = {r: m for r, m in found.metrics.items() if r != Run(Variant("RR6"), "A", 1)}
    found = dataclasses.replace(found, metrics=metrics)
    assert found.difference("Std_A", "RR^6_A").mean == pytest.approx(np.mean([A[i] - B[i] for i in (0, 2, 3, 4)]))
    rows = found.accuracy_tables("caption", "note")[0].block.rows
    row = next(r for r in rows if isinstance(r, Sequence) and r[0].text == "RR^6_A")
    assert row[4] is None  # seed 1, in its own column
    assert row[5].text == B[2]


def test_groups_follow_the_phases_and_ways() -> None:
    found = results({"Std_A": A, "Std_B": A, "Std_AB-probe": A, "Std_B-1pct": A, "Std_AB-1pct": A})
    assert list(found.groups.values()) == [["Std_A"], ["Std_B"], ["Std_AB-probe"], ["Std_AB-1pct", "Std_B-1pct"]]


def test_words_for_numbers() -> None:
    found = results({"Std_A": [0.5], "RR6_A": A})
    assert spread(found.summary("Std_A")) == "0.500"
    assert spread(None) == spread(found.summary("none")) == "—"
    assert interval(found.summary("Std_A")) == "n = 1"
    assert markdown(["a"], [["x | y"]]) == ["| a |", "| --- |", "| x \\| y |"]
    line = Verdicts([found.gap("c", "w", "RR^6_A", "Std_A")]).markdown().splitlines()[-1]
    assert line == f"| c | w | not run | {ONE_SEED} |"


def test_an_interval_ends_where_an_accuracy_does() -> None:
    found = results({"RR6_A": [0.999, 0.9, 1.0], "Std_A": [0.0, 0.01, 0.2]})
    assert interval(found.summary("RR^6_A")).endswith(" – 1.000")
    assert interval(found.summary("Std_A")).startswith("0.000 – ")
    assert found.difference("RR^6_A", "Std_A").high == 1


@pytest.mark.parametrize(
    "model",
    [
        *("Std_A", "StdC_AA", "Ort_AB", "RR^13_AB", "RR^13s_AB-probe", "Dec^3_AB", "RR^7_AB-1pct", "Std_B-10pct"),
        *("RR^3-every4_AB", "RR^13s-layerwise-subset2_A"),
    ],
)
def test_every_model_name_has_a_colour_and_a_formula(model) -> None:
    rows = [Measured(model, A, B), Measured(model, [])]
    drawing = svg(accuracies({"Phase": rows}))
    assert "<svg" in drawing
    path, _, way = model.partition("_")[2].partition("-")
    savings = model.partition("_")[0].split("-")[1:]
    assert f"_{{{path}}}$" in math_title(model)
    assert math_title(model).endswith("$") == (not way and not savings)
    assert all(words in math_title(model) for words in savings)


def test_accuracies_are_dots_with_intervals_that_end_at_one() -> None:
    some = [Measured("Std_B", [0.2]), Measured("Std_B", [])]
    figure = accuracies({"both": [Measured("Std_A", [0.99, 1.0])], "one": some}, 0.9)
    both, one = figure.axes
    assert not [*both.patches, *one.patches]  # no bars, which an axis could cut
    ends = [c.get_segments()[0] for c in both.collections if isinstance(c, LineCollection)]
    half = stats.t.ppf(0.975, 1) * np.std([0.99, 1.0], ddof=1) / 2**0.5
    assert np.allclose(ends[0][:, 0], [0.995 - half, 1.0])
    assert not [c for c in one.collections if isinstance(c, LineCollection)]  # one run has no interval
    assert [t.get_text() for t in one.texts] == ["not run"]
    assert 0.9 in [line.get_xdata()[0] for line in both.lines]
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("setting", "stem"),
    [
        ("paper recipe, small preset", "cifar-small"),
        ("strong recipe, quick preset", "cifar-strong-quick"),
        ("", "cifar"),
    ],
)
def test_names_of_results(setting, stem) -> None:
    assert file_stem("cifar", setting) == stem


def test_a_portable_command_can_be_pasted() -> None:
    given = "racecar study x --chosen '{RR1: 0.003}' --out /a --variants 'RR^3' && racecar report /a"
    assert portable(given) == "racecar study x --chosen '{RR1: 0.003}' --out OUT --variants RR^3 && racecar report /a"


def test_portable_command_keeps_what_is_no_path() -> None:
    assert portable("racecar study cifar --data hub --out /a/b --seeds 3") == (
        "racecar study cifar --data hub --out OUT --seeds 3"
    )
    assert portable("racecar study smoke --simulations /a --captures=/b") == (
        "racecar study smoke --simulations SIMULATIONS --captures=CAPTURES"
    )
    assert portable("racecar study digits --nmnist=/x.mat 'unclosed") == (
        "racecar study digits --nmnist=FILE 'unclosed"
    )
