"""What the tables report of several runs: n, mean, standard deviation, confidence interval, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from racecar.study.report.page import Outcome


@dataclass(frozen=True)
class Summary:
    """A sample's mean with its spread.

    Attributes:
        n: number of runs.
        mean: NaN for none.
        sd: sample standard deviation (n - 1); NaN for n < 2.
        low: lower end of the 95 % confidence interval of the mean (Student's t); NaN for n < 2.
        high: upper end.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def summarise(values: Sequence[float], level: float = 0.95) -> Summary:
    """Mean, standard deviation and t interval of independent runs."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Summary:
    """Summary of a_i - b_i over the seeds both have, which share data order and split.

    Raises:
        ValueError: different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired samples of different lengths, {len(a)} and {len(b)}")
    return summarise([x - y for x, y in zip(a, b, strict=True)])


def outcome(difference: Summary) -> Outcome:
    """What an interval says of a claim that the difference is positive; NaN for a single run decides nothing."""
    return "reproduced" if difference.low > 0 else "not reproduced" if difference.high < 0 else "undecided"


def spread(summary: Summary | None, digits: int = 3) -> str:
    """``mean ± sd``; a dash for nothing."""
    if summary is None or not summary.n:
        return "—"
    deviation = "" if math.isnan(summary.sd) else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{deviation}"


def interval(summary: Summary, digits: int = 3) -> str:
    """``low – high``, or that one run has none."""
    return f"{summary.low:.{digits}f} – {summary.high:.{digits}f}" if summary.n > 1 else f"n = {summary.n}"


def bounds(summary: Summary, digits: int = 3, sign: str = "") -> str:
    """The same in a sentence."""
    if summary.n < 2:
        return "one run has no CI"
    return f"95 % CI [{summary.low:{sign}.{digits}f}, {summary.high:{sign}.{digits}f}]"
