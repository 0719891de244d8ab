import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from racecar.study.report.statistics import paired_difference, summarise


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12).filter(lambda v: max(v) - min(v) > 1e-3))
def test_interval_is_students(values) -> None:
    found = summarise(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.n == len(values)
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_one_run_has_no_spread_and_none_has_no_mean() -> None:
    one, none = summarise([0.5]), summarise([])
    assert one.mean == 0.5
    assert math.isnan(one.sd)
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.mean)


def test_paired_difference() -> None:
    found = paired_difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert (found.mean, found.sd) == (0.5, 0.0)
    with pytest.raises(ValueError, match="different lengths"):
        paired_difference([1.0], [])
