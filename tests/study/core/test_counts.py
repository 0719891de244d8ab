"""Counts in a configuration are looked at by name."""

from types import SimpleNamespace

import pytest

from racecar.study.core.counts import at_least_one


def test_what_is_not_asked_for_is_no_count() -> None:
    at_least_one(SimpleNamespace(seeds=1, images=None), "seeds", "images")


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_one_is_refused_by_its_name(count) -> None:
    with pytest.raises(ValueError, match=rf"images must be at least 1, not {count}"):
        at_least_one(SimpleNamespace(seeds=1, images=count), "seeds", "images")
