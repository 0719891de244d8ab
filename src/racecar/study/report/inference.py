"""What several runs allow to say of a difference: intervals over seeds and test items, verdicts, runs needed.

Runs are numbers [S], one a seed, or answers [S, I], which of I test items each seed gets right; seeds and items are the
same, and in the same order, for what is compared. Differences of [S] have Student's t interval; those of [S, I] are of
seeds and of items, both of which are samples of many, and have a crossed bootstrap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from racecar.study.report.statistics import Summary, summarise

Verdict = Literal["better", "equivalent", "worse", "undecided"]
_FEW = 5  # seeds
_AT_MOST = 1_000_000  # runs


# --- intervals --------------------------------------------------------------------------------------------------------


def crossed_bootstrap(a: ArrayLike, b: ArrayLike, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Summary:
    """Summary of the mean of a − b: its interval over seeds and test items, each drawn anew and independently.

    Two corrections make the percentiles right for few seeds. Crossed draws count the noise of single answers three
    times (Owen 2007, "The pigeonhole bootstrap"), so their spread is scaled to the standard error of the two-way
    analysis of variance: that of the t interval over seeds, and what items add. And the percentiles are those of
    Student's t instead of the normal (Hesterberg 2015's expanded percentiles), with Satterthwaite's degrees of freedom,
    S − 1 where seeds dominate; Hesterberg's factor √(n / (n − 1)) is in the scale. Fewer than five seeds have too few
    different draws: their interval is Student's t with that standard error.

    Args:
        a: [S, I] answers, or [S] numbers, which have the t interval of their paired differences.
        b: of the same shape, for the same seeds and items.
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        n, mean and s.d. of the seeds' differences, and the interval; NaN where S = 1.

    Raises:
        ValueError: shapes that differ, are empty or of other dimensions, values that are not finite, or a level outside
            0 to 1.
    """
    difference = _difference(a, b)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; use a number between 0 and 1, e.g. 0.95")
    seeds = summarise(difference.mean(axis=1).tolist(), level)
    if difference.shape[1] == 1 or seeds.n < 2:
        return seeds
    error, freedom = _error(difference)
    if seeds.n < _FEW:
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
        return replace(seeds, low=seeds.mean - half, high=seeds.mean + half)
    means = _means_of_draws(difference, draws, seed)
    spread = float(means.std())
    tail = float(stats.norm.cdf(stats.t.ppf((1 - level) / 2, freedom)))
    low, high = np.quantile((means - seeds.mean) * (error / spread if spread else 1.0), [tail, 1 - tail])
    return replace(seeds, low=seeds.mean + float(low), high=seeds.mean + float(high))


def p_value(a: ArrayLike, b: ArrayLike) -> float:
    """The two-sided p of a mean difference of zero, by the t distribution of the standard error of the interval.

    Args:
        a: [S, I] answers or [S] numbers, S ≥ 2.
        b: of the same shape, for the same seeds and items.

    Raises:
        ValueError: as :func:`crossed_bootstrap`, and for S = 1.
    """
    difference = _difference(a, b)
    if len(difference) < 2:
        raise ValueError("one run has no p value; run at least 2 seeds")
    error, freedom = _error(difference)
    mean = float(difference.mean())
    if not error:
        return 0.0 if mean else 1.0
    return 2 * float(stats.t.sf(abs(mean) / error, freedom))


def _difference(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """a − b as [S, I], with I = 1 for numbers [S]."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2) or not first.size:
        raise ValueError(
            f"runs of shapes {first.shape} and {second.shape}; pass two of [seeds, items] or two of [seeds], for the "
            "same seeds and items"
        )
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("runs hold NaN or infinite values; leave those seeds out of both")
    return difference[:, None] if difference.ndim == 1 else difference


def _error(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Standard error of the grand mean of [S, I] and its degrees of freedom: two-way random effects, one a cell.

    Its square is (M_S + M_I − M_E) / (S·I) with the mean squares of seeds, items and the rest, and at least
    M_S / (S·I), the square of the standard error over seeds alone.
    """
    seeds, items = difference.shape
    grand = difference.mean()
    rows, columns = difference.mean(axis=1) - grand, difference.mean(axis=0) - grand
    of_seeds = float(rows @ rows) / (seeds * (seeds - 1))
    if items == 1:
        return math.sqrt(of_seeds), seeds - 1
    of_items = float(columns @ columns) / (items * (items - 1))
    rest = (difference - grand).ravel()
    squares = float(rest @ rest) - items * float(rows @ rows) - seeds * float(columns @ columns)
    of_rest = max(squares, 0.0) / ((seeds - 1) * (items - 1) * seeds * items)
    if of_items <= of_rest:
        return math.sqrt(of_seeds), seeds - 1
    variance = of_seeds + of_items - of_rest
    uncertain = of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1) + of_rest**2 / ((seeds - 1) * (items - 1))
    return math.sqrt(variance), max(variance**2 / uncertain, seeds - 1)


def _means_of_draws(difference: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Means [draws] of [S, I] with rows and columns drawn anew: how often each was drawn, times the matrix."""
    seeds, items = difference.shape
    of_seeds, of_items = _drawn(seeds, items, draws, seed)
    found = []
    for start in range(0, draws, step := max(1, 4_000_000 // items)):  # 32 MB at a time
        chunk = slice(start, start + step)
        found.append(((of_items[chunk].astype(np.float64) @ difference.T) * of_seeds[chunk]).sum(axis=1))
    return np.concatenate(found) / (seeds * items)


@functools.lru_cache(maxsize=4)
def _drawn(seeds: int, items: int, draws: int, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """How often each seed and each item is drawn, [draws, S] and [draws, I]: the same for all rows of a table."""
    random = np.random.default_rng(seed)
    return _counts(random, draws, seeds), _counts(random, draws, items)


def _counts(random: np.random.Generator, draws: int, size: int) -> NDArray[np.uint16]:
    """How often each of ``size`` is drawn in ``size`` draws with replacement, [draws, size]."""
    found = np.empty((draws, size), dtype=np.uint16)
    for row in found:
        row[:] = np.bincount(random.integers(0, size, size), minlength=size)
    return found


# --- verdicts ---------------------------------------------------------------------------------------------------------


def equivalent(difference90: Summary, margin: float) -> bool:
    """Whether two one-sided tests at 5 % find a difference within ±margin: the 90 % interval lies inside.

    Raises:
        ValueError: a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; declare a number above 0")
    return -margin < difference90.low and difference90.high < margin


def judge(difference95: Summary, difference90: Summary, margin: float) -> Verdict:
    """What a difference is, by its 95 % and 90 % intervals: a difference that cannot matter is none, though above zero.

    "equivalent" if the 90 % interval lies within ±margin; else "better" or "worse" if the 95 % interval excludes 0;
    else, and for one run, "undecided".

    Raises:
        ValueError: a margin that is not above 0, or intervals that are not of one difference in this order.
    """
    nested = difference95.low <= difference90.low and difference90.high <= difference95.high
    if not nested and difference95.n > 1:
        raise ValueError(
            "the 90 % interval is not inside the 95 % interval: pass both of one difference, in that order"
        )
    if equivalent(difference90, margin):
        return "equivalent"
    if difference95.low > 0:
        return "better"
    return "worse" if difference95.high < 0 else "undecided"


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979), in the order given: below α are those that hold together at α.

    Raises:
        ValueError: a value outside 0 to 1.
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p value {bad[0]}; use numbers from 0 to 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class AgainstControls:
    """A candidate beside several controls.

    Attributes:
        control: the one with the smallest difference, the best control.
        difference: candidate − that control.
        better: whether the interval of candidate − control lies above zero for every control.
        differences: candidate − control, by control.
    """

    control: str
    difference: Summary
    better: bool
    differences: dict[str, Summary]


def best_control(
    candidate: ArrayLike, controls: Mapping[str, ArrayLike], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> AgainstControls:
    """A candidate against the best of several controls, by intersection and union: it has to be better than each.

    No correction for the number of controls is needed, as all of the tests have to hold (Berger 1982).

    Args:
        candidate: as in :func:`crossed_bootstrap`.
        controls: by name, for the same seeds and items.
        level, draws, seed: as there.

    Raises:
        ValueError: no control, or as :func:`crossed_bootstrap`.
    """
    if not controls:
        raise ValueError("no control; pass at least one")
    differences = {n: crossed_bootstrap(candidate, c, level, draws, seed) for n, c in controls.items()}
    name = min(differences, key=lambda n: differences[n].mean)
    return AgainstControls(name, differences[name], all(d.low > 0 for d in differences.values()), differences)


# --- runs needed ------------------------------------------------------------------------------------------------------


def runs_needed(sd: float, difference: float, power: float = 0.9, level: float = 0.05) -> int:
    """How many seeds a two-sided paired t test needs to find a true difference, with its sign.

    Args:
        sd: of the paired differences.
        difference: the true one; its sign does not matter.
        power: the probability to find it.
        level: of the test.

    Raises:
        ValueError: numbers out of range, or more than a million runs needed.
    """

    def found(n: int) -> float:
        critical, shift = stats.t.ppf(1 - level / 2, n - 1), abs(difference) / sd * math.sqrt(n)
        s, weights = _deviations(n)
        return float(weights @ stats.norm.sf(critical * s - shift))

    return _fewest(found, sd, abs(difference), power, level)


def runs_for_equivalence(sd: float, margin: float, power: float = 0.9, level: float = 0.05) -> int:
    """How many seeds two one-sided paired t tests need to find methods equivalent that do not differ.

    Args:
        sd: of the paired differences.
        margin: δ of the equivalence.
        power: the probability to find it.
        level: of each test; 0.05 is the 90 % interval within ±δ.

    Raises:
        ValueError: numbers out of range, or more than a million runs needed.
    """

    def found(n: int) -> float:
        critical, room = stats.t.ppf(1 - level, n - 1), margin / sd * math.sqrt(n)
        s, weights = _deviations(n)
        return float(weights @ np.maximum(2 * stats.norm.cdf(room - critical * s) - 1, 0.0))

    return _fewest(found, sd, margin, power, level)


def _deviations(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample deviations of n normal numbers of deviation 1, and weights: what is weighted has its mean over samples.

    Quadrature in the quantiles; scipy's noncentral t is NaN where a power is almost 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


def _fewest(found: Callable[[int], float], sd: float, effect: float, power: float, level: float) -> int:
    """The smallest n of 2 to a million whose power is reached."""
    if not (sd > 0 and effect > 0 and math.isfinite(sd) and math.isfinite(effect)):
        raise ValueError(f"s.d. {sd} and difference or margin {effect}; use finite numbers above 0")
    if not 0 < level < power < 1:
        raise ValueError(f"power {power} and level {level}; use 0 < level < power < 1")
    high = 2
    while found(high) < power:
        if high >= _AT_MOST:
            raise ValueError(f"more than {_AT_MOST} runs needed for {effect} with s.d. {sd}: it cannot be found so")
        high *= 2
    low = high // 2  # is too few, or below 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high
