"""Choice, differences and verdicts from numbers that are set by hand."""

import numpy as np
import pytest
from scipy import stats

from racecar.study.core.variants import Variant
from racecar.study.forecasting.config import Config
from racecar.study.forecasting.results import ForecastingResults, chosen, decisive_jobs, tuning_jobs
from racecar.study.forecasting.training import Job

CONFIG = Config(variants=("Std", "Pre", "Dec1", "RR1", "RR5"), seeds=4)
NOISE = [0.0005, -0.001, 0.00025, 0.00025]  # of a seed, for one method


def made(noise: float = 1.0, **lower: float) -> ForecastingResults:
    """Errors of 0.1 of density, those of a method lower by so much; persistence is 0.2."""
    found = {j: {"A": 0.1, "AB": 0.1, "probe": 0.1} for j in tuning_jobs(CONFIG)}
    found[Job(Variant("RR1"), 1.0, 0, tuning=True)] = {"A": 0.1, "AB": 0.09, "probe": 0.1}
    for job in decisive_jobs(CONFIG, chosen(CONFIG, found)):
        name = "B" if job.variant is None else job.variant.name
        error = 0.1 - lower.get(name, 0.0) + (noise * NOISE[job.seed] if name == "RR1" else 0.0)
        found[job] = {"B": error} if job.variant is None else {"A": error, "AB": error, "probe": error}
    return ForecastingResults(CONFIG, found, {"A": 0.2, "B": 0.2}, {"A": 0.2, "B": 0.2})


def test_the_value_with_the_lowest_error_on_b_is_chosen_and_diverged_ones_are_passed_over() -> None:
    found = {j: {"A": 0.0, "AB": 1 + j.value} for j in tuning_jobs(CONFIG)}
    found[Job(Variant("RR5"), 0.1, 0, tuning=True)] = {"diverged": "nan"}
    for job in tuning_jobs(CONFIG):
        if job.variant == Variant("Dec1"):
            found[job] = {"diverged": "nan"}
    assert chosen(CONFIG, found) == {"Std": 0.0, "Pre": 1.0, "RR1": 0.1, "RR5": 1.0}


def test_three_values_of_five_are_its_ends_and_its_middle() -> None:
    assert CONFIG.strengths(Variant("RR1")) == (0.1, 1.0, 10.0)
    assert CONFIG.strengths(Variant("Std")) == ()


def test_a_difference_is_in_shares_of_persistence_with_a_t_interval() -> None:
    results = made(RR1=0.02)
    assert results.candidate == Variant("RR1")
    found = results.compare(Variant("Std"), 0.0, "AB")
    assert found is not None
    wanted = (0.02 - np.array(NOISE)) / 0.2
    low, high = stats.t.interval(0.95, 3, wanted.mean(), stats.sem(wanted))
    assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx((0.1, low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(wanted, 0).pvalue)
    assert found.verdict == "better"


@pytest.mark.parametrize(
    ("lower", "noise", "verdict"),
    [(0.02, 1, "better"), (-0.02, 1, "worse"), (0.0, 1, "equivalent"), (0.0, 4, "undecided")],
)
def test_the_four_verdicts(lower, noise, verdict) -> None:
    assert {c.verdict for c in made(noise, RR1=lower).comparisons("A")} == {verdict}


def test_the_claim_is_judged_against_both_and_sharing_against_the_decoder() -> None:
    def outcomes(**lower: float) -> list[str]:
        return [v.outcome for v in made(**lower).verdicts()]

    assert outcomes(RR1=0.02) == ["reproduced"] * 3
    assert outcomes(RR1=0.02, Pre=0.02) == ["not reproduced", "not reproduced", "reproduced"]
    assert outcomes(RR1=0.02, Dec1=0.03) == ["reproduced", "reproduced", "not reproduced"]
    assert outcomes(RR1=0.001) == ["undecided"] * 3
