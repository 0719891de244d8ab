import math

import numpy as np
import pytest
from scipy import stats

from racecar.study.report.inference import (
    best_control,
    crossed_bootstrap,
    equivalent,
    holm,
    judge,
    p_value,
    runs_for_equivalence,
    runs_needed,
)
from racecar.study.report.statistics import Summary


def answers(random: np.random.Generator, seeds: int, items: int, easy: float, own: float) -> np.ndarray:
    """Which of so many items each seed gets right: items of one method, its seeds, noise, all normal."""
    drawn = random.standard_normal
    return easy + own * drawn(items) + 0.1 * drawn((seeds, 1)) + 0.5 * drawn((seeds, items)) > 0


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("own", [0.0, 1.0])
def test_the_interval_of_answers_covers_the_truth(seeds: int, own: float) -> None:
    # Truth is a closed form: a normal sum is above 0 with probability Φ(mean / s.d.).
    spread = math.sqrt(own**2 + 0.1**2 + 0.5**2)
    truth = stats.norm.cdf(0.4 / spread) - stats.norm.cdf(0.2 / spread)
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        a, b = answers(random, seeds, 200, 0.4, own), answers(random, seeds, 200, 0.2, own)
        found = crossed_bootstrap(a, b, draws=300)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_is_that_of_many_draws_one_by_one() -> None:
    random = np.random.default_rng(3)
    a, b = (answers(random, 6, 40, easy, 1.0).astype(float) for easy in (0.5, 0.2))
    difference = a - b
    draws = [difference[random.integers(0, 6, 6)][:, random.integers(0, 40, 40)].mean() for _ in range(20_000)]
    grand = difference.mean()
    of_seeds = difference.mean(axis=1).var(ddof=1) / 6
    of_items = difference.mean(axis=0).var(ddof=1) / 40
    rest = difference - difference.mean(axis=1, keepdims=True) - difference.mean(axis=0) + grand
    of_rest = (rest**2).sum() / (5 * 39) / 240
    variance = of_seeds + of_items - of_rest
    freedom = variance**2 / (of_seeds**2 / 5 + of_items**2 / 39 + of_rest**2 / (5 * 39))
    tail = stats.norm.cdf(stats.t.ppf(0.025, freedom))
    expected = (np.quantile(draws, [tail, 1 - tail]) - grand) * math.sqrt(variance) / np.std(draws) + grand
    found = crossed_bootstrap(a, b, draws=20_000)
    assert [found.low, found.high] == pytest.approx(expected, abs=0.006)
    assert (found.n, found.mean) == (6, pytest.approx(grand))
    assert found.sd == pytest.approx(difference.mean(axis=1).std(ddof=1))
    assert p_value(a, b) == pytest.approx(2 * stats.t.sf(abs(grand) / math.sqrt(variance), freedom))


def test_numbers_have_the_t_interval_and_p_of_paired_differences() -> None:
    a, b = [0.5, 0.61, 0.72, 0.7], [0.4, 0.52, 0.66, 0.71]
    expected = stats.ttest_rel(a, b)
    found = crossed_bootstrap(a, b, level=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert p_value(a, b) == pytest.approx(expected.pvalue)


def test_equal_seeds_leave_the_spread_of_items_and_equal_items_that_of_seeds() -> None:
    values = np.random.default_rng(0).standard_normal(60)
    by_item = crossed_bootstrap(np.tile(values, (8, 1)), np.zeros((8, 60)))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (by_item.low, by_item.high) == pytest.approx(tuple(expected), abs=0.03)
    by_seed = crossed_bootstrap(np.tile(values[:, None], (1, 8)), np.zeros((60, 8)))
    assert (by_seed.low, by_seed.high) == pytest.approx(tuple(expected), abs=0.03)


def test_where_items_add_nothing_the_interval_is_that_of_seeds() -> None:
    a = np.array([[1, 0, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1]], dtype=bool)
    b = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)
    b[2] = [1, 0, 1, 0]  # the third seed answers other items: items agree less than by chance
    assert crossed_bootstrap(a, b).low == pytest.approx(crossed_bootstrap(a.mean(axis=1), b.mean(axis=1)).low)


def test_draws_are_of_a_seed_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    a, b = answers(random, 5, 30_000, 0.4, 1.0), answers(random, 5, 30_000, 0.2, 1.0)
    once = crossed_bootstrap(a, b, draws=400)
    assert once == crossed_bootstrap(a, b, draws=400)
    assert once.low != crossed_bootstrap(a, b, draws=400, seed=1).low
    assert crossed_bootstrap(a, b, level=0.9, draws=400).low > once.low


def test_one_run_has_no_interval_and_equal_runs_one_of_no_width() -> None:
    one = crossed_bootstrap([[True, False]], [[False, False]])
    assert (one.n, one.mean) == (1, 0.5)
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        p_value([1.0], [2.0])
    same = crossed_bootstrap(np.ones((6, 9)), np.zeros((6, 9)))
    assert (same.low, same.high) == (1, 1)
    assert p_value(np.ones((6, 9)), np.zeros((6, 9))) == 0
    assert p_value(np.ones(6), np.ones(6)) == 1


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], r"shapes \(2,\) and \(1,\)"),
        (np.ones((2, 3)), np.ones((2, 4)), r"shapes \(2, 3\) and \(2, 4\)"),
        (np.ones((2, 3, 4)), np.ones((2, 3, 4)), "two of"),
        ([], [], "two of"),
        ([1.0, math.nan], [1.0, 2.0], "NaN or infinite"),
    ],
)
def test_what_cannot_be_paired_is_refused(a, b, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_bootstrap(a, b)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wide", "narrow", "verdict"),
    [
        ((0.02, 0.06), (0.025, 0.055), "better"),
        ((-0.06, -0.02), (-0.055, -0.025), "worse"),
        ((0.001, 0.011), (0.002, 0.009), "equivalent"),  # above zero, yet too little to matter
        ((-0.011, 0.004), (-0.009, 0.003), "equivalent"),
        ((0.001, 0.012), (0.002, 0.011), "better"),
        ((-0.012, -0.001), (-0.011, -0.002), "worse"),
        ((-0.012, 0.004), (-0.011, 0.003), "undecided"),
        ((-0.004, 0.02), (0.001, 0.018), "undecided"),  # above zero at 90 % alone
        ((-0.012, 0.012), (-0.010, 0.009), "undecided"),  # at the margin is not within it
        ((math.nan, math.nan), (math.nan, math.nan), "undecided"),
    ],
)
def test_the_four_verdicts(wide: tuple[float, float], narrow: tuple[float, float], verdict: str) -> None:
    n = 1 if math.isnan(wide[0]) else 10
    d95, d90 = (Summary(n, sum(ends) / 2, 0.01, *ends) for ends in (wide, narrow))
    assert judge(d95, d90, 0.01) == verdict
    assert equivalent(d90, 0.01) == (verdict == "equivalent")


def test_a_verdict_refuses_intervals_out_of_order_and_no_margin() -> None:
    wide, narrow = Summary(5, 0.0, 1.0, -0.2, 0.2), Summary(5, 0.0, 1.0, -0.1, 0.1)
    with pytest.raises(ValueError, match="not inside"):
        judge(narrow, wide, 0.3)
    with pytest.raises(ValueError, match="margin is 0"):
        judge(wide, narrow, 0.0)


def test_holm_by_hand() -> None:
    # Sorted: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 which may not be below what is before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.4, 0.9]) == [1, 1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p value 1\.5"):
        holm([0.1, 1.5])


def test_the_best_control_has_to_be_beaten_and_every_other_too() -> None:
    noise = np.array([0.0, 0.01, -0.01, 0.005, -0.005])
    candidate = 0.8 + 0 * noise
    far, near = 0.5 + noise, 0.75 + noise
    found = best_control(candidate, {"far": far, "near": near})
    assert (found.control, found.better) == ("near", True)
    assert found.difference == crossed_bootstrap(candidate, near)
    # A control that is worse on average and scatters is not beaten for sure, and so spoils the claim.
    unsure = 0.7 + 30 * noise
    found = best_control(candidate, {"near": near, "unsure": unsure})
    assert (found.control, found.better) == ("near", False)
    assert found.differences["near"].low > 0 > found.differences["unsure"].low
    with pytest.raises(ValueError, match="no control"):
        best_control(candidate, {})


# --- runs needed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "power", "runs"), [(0.5, 0.8, 34), (0.5, 0.9, 44), (0.8, 0.8, 15), (0.2, 0.8, 199)])
def test_runs_needed_are_those_of_published_tables(effect: float, power: float, runs: int) -> None:
    assert runs_needed(2.0, 2 * effect, power) == runs  # G*Power's, paired t test, two-sided at 5 %
    assert runs_needed(2.0, -2 * effect, power) == runs


@pytest.mark.parametrize("effect", [0.05, 0.3, 1.0, 2.0, 5.0])
def test_runs_needed_are_the_noncentral_ts(effect: float) -> None:
    def power(n: int) -> float:
        critical, shift = stats.t.ppf(0.995, n - 1), effect * math.sqrt(n)
        return stats.nct.sf(critical, n - 1, shift)

    n = runs_needed(1.0, effect, 0.95, level=0.01)
    assert power(n) >= 0.95 > power(n - 1)


@pytest.mark.parametrize(("margin", "level"), [(0.5, 0.05), (1.5, 0.05), (0.8, 0.01)])
def test_runs_for_equivalence_by_simulation(margin: float, level: float) -> None:
    random = np.random.default_rng(0)

    def power(n: int) -> float:
        means = random.standard_normal(400_000) / math.sqrt(n)
        errors = np.sqrt(random.chisquare(n - 1, 400_000) / (n - 1) / n)
        return float(np.mean(np.abs(means) + stats.t.ppf(1 - level, n - 1) * errors < margin))

    n = runs_for_equivalence(3.0, 3 * margin, 0.85, level)
    assert power(n) >= 0.85 - 0.002
    assert power(n - 1) < 0.85 + 0.002
    assert runs_for_equivalence(3.0, 3 * margin, 0.95, level) > n


def test_runs_that_nobody_has_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 1000000 runs"):
        runs_needed(1.0, 1e-5)
    with pytest.raises(ValueError, match="above 0"):
        runs_needed(0.0, 0.1)
    with pytest.raises(ValueError, match="level < power"):
        runs_for_equivalence(1.0, 0.1, power=0.01)
