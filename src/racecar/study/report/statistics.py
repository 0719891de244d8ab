"""What tables and verdicts say of several runs: n, mean, deviation, confidence interval, paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from racecar.study.report.claims import Outcome

_ONE_RUN = "one run has no CI"


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
    """Mean, standard deviation and t interval of independent runs; see :func:`clipped` for shares."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Summary(n, mean, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def clipped(summary: Summary, lowest: float = 0.0, highest: float = 1.0) -> Summary:
    """The summary with its interval cut to what is possible: Student's t knows no end, an accuracy ends at 1."""
    return replace(summary, low=max(summary.low, lowest), high=min(summary.high, highest))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Summary:
    """Summary of a_i - b_i over the seeds both have, which share data order and split.

    Raises:
        ValueError: different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired samples of different lengths, {len(a)} and {len(b)}")
    return summarise([x - y for x, y in zip(a, b, strict=True)])


def paired_log_ratio(a: Sequence[float], b: Sequence[float]) -> Summary:
    """Summary of log(a_i / b_i) over the seeds both have: for what spans orders of magnitude.

    Raises:
        ValueError: different lengths.
    """
    return paired_difference(*(np.log(np.maximum(values, 1e-12)).tolist() for values in (a, b)))


def outcome(difference: Summary, margin: float = 0.0) -> Outcome:
    """What an interval says of a claim that the difference is positive; one run, or none, decides nothing: not run.

    Args:
        difference: with its interval.
        margin: of a claim that the difference is above −margin.
    """
    if difference.n < 2:
        return "not run"
    return "reproduced" if difference.low > -margin else "not reproduced" if difference.high < -margin else "undecided"


# --- in words ---------------------------------------------------------------------------------------------------------


def spread(summary: Summary | None, digits: int = 3) -> str:
    """``mean ± sd`` with so many decimals; a dash for no run."""
    if summary is None or not summary.n:
        return "—"
    deviation = "" if math.isnan(summary.sd) else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{deviation}"


def spread_at_scale(summary: Summary, figures: int = 3) -> str:
    """``mean ± sd`` with so many significant figures of the mean and two of the deviation, whatever their size."""
    return f"{summary.mean:.{figures}g}" + (f" ± {summary.sd:.2g}" if summary.n > 1 else "")


def interval(summary: Summary, digits: int = 3) -> str:
    """The confidence interval for a table, ``low – high``; for one run that there is only one."""
    return f"{summary.low:.{digits}f} – {summary.high:.{digits}f}" if summary.n > 1 else f"n = {summary.n}"


def bounds(summary: Summary, digits: int = 3, sign: str = "") -> str:
    """The confidence interval for a sentence, ``95 % CI [low, high]``, or that one run has none."""
    if summary.n < 2:
        return _ONE_RUN
    return f"95 % CI [{summary.low:{sign}.{digits}f}, {summary.high:{sign}.{digits}f}]"


def p_shown(p: float) -> str:
    """A p value for a table; a dash where there is none."""
    return "—" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def factor(log: float) -> str:
    """The number whose logarithm is given, as a factor: ``×3``."""
    return f"×{math.exp(log):.3g}" if log < 300 else "overflow"


def factor_bounds(logs: Summary) -> str:
    """The confidence interval of logarithms for a sentence, as factors."""
    return f"95 % CI [{factor(logs.low)}, {factor(logs.high)}]" if logs.n > 1 else _ONE_RUN


def compact(value: float) -> str:
    """A number with three significant figures at any size; what overflowed says so."""
    return "overflow" if not math.isfinite(value) or abs(value) >= 1e29 else f"{value:.3g}"


def compact_spread(summary: Summary) -> str | None:
    """``mean ± sd`` by :func:`compact`; None for no run."""
    if not summary.n:
        return None
    return compact(summary.mean) + (f" ± {compact(summary.sd)}" if summary.n > 1 else "")


def compact_bounds(summary: Summary) -> str:
    """The confidence interval for a sentence by :func:`compact`."""
    return f"95 % CI [{compact(summary.low)}, {compact(summary.high)}]" if summary.n > 1 else _ONE_RUN
