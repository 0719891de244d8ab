"""What a sweep's finished runs say, and which folders are no sweep's."""

import json
import math
from pathlib import Path

import pytest

from racecar.study.core.errors import StudyError
from racecar.study.sweep.results import SweepResults, check_folder, check_weights, open_sweep

ASKED = {"weights": [1e-4, 1e-5], "variants": ["Std", "RR3"], "phases": ["A", "B", "AB"], "seeds": 2}


def finished(folder: Path, study: str, model: str, *accuracies: float) -> None:
    for seed, accuracy in enumerate(accuracies):
        path = folder / study / "runs" / model / f"seed-{seed}" / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"accuracy": accuracy}))


@pytest.fixture
def sweep(tmp_path) -> Path:
    open_sweep(tmp_path, "digits", {"width": 4, "a": {"milestones": (1, 2)}}, ASKED)
    finished(tmp_path, "without-weight", "Std_A", 0.5, 0.7)
    finished(tmp_path, "without-weight", "Std_B", 0.4)
    finished(tmp_path, "weight-1e-05", "RR3_AB", 0.5, 0.6)
    finished(tmp_path, "weight-0.0001", "RR3_AB", 0.8, 0.9)
    finished(tmp_path, "weight-0.001", "RR3_AB", 1.0, 1.0)  # not asked for
    return tmp_path


def test_the_table_has_variants_by_lambda_with_deviation_and_a_smaller_n_named(sweep) -> None:
    results = SweepResults(sweep)
    assert results.header == ["variant", "λ", "A", "B", "AB"]
    assert results.rows == [
        ["Std", "—", "0.6000 ± 0.1414", "0.4000 (n = 1)", "—"],
        ["RR^3", "1e-05", "—", "—", "0.5500 ± 0.0707"],
        ["RR^3", "0.0001", "—", "—", "0.8500 ± 0.0707"],
    ]


def test_the_best_lambda_has_the_highest_mean_and_its_lead_is_paired_by_seed(sweep) -> None:
    best = SweepResults(sweep).best("RR3")
    assert best.weight == 1e-4
    assert (best.lead.n, round(best.lead.mean, 9)) == (2, 0.3)
    assert SweepResults(sweep).chosen[0][-1] == "yes"


def test_a_lambda_with_seeds_missing_is_not_chosen_however_good(sweep) -> None:
    (sweep / "weight-0.0001" / "runs" / "RR3_AB" / "seed-1" / "run.json").unlink()
    results = SweepResults(sweep)
    assert results.best("RR3").weight == 1e-5
    assert results.best("RR3").lead is None
    assert results.chosen[0][-1] == "the only λ; 1 λ unfinished"
    (sweep / "weight-1e-05" / "runs" / "RR3_AB" / "seed-0" / "run.json").unlink()
    assert SweepResults(sweep).chosen[0][1:] == ["—", "—", "—", "no λ has all seeds yet"]


def test_the_smaller_lambda_wins_a_tie(sweep) -> None:
    for seed, accuracy in enumerate((0.9, 0.8)):
        path = sweep / "weight-1e-05" / "runs" / "RR3_AB" / f"seed-{seed}" / "run.json"
        path.write_text(json.dumps({"accuracy": accuracy}))
    results = SweepResults(sweep)
    assert results.best("RR3").weight == 1e-5
    assert results.chosen[0][-1] == "undecided"


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["A"], "A"),
        (["A", "AA", "B"], "AA"),
        (["A", "AA", "AB-probe", "AB", "B"], "AB"),
        (["A-start", "A", "AA"], "AA"),
    ],
)
def test_transfer_decides_where_there_is_one(tmp_path, phases, expected) -> None:
    open_sweep(tmp_path, "digits", {}, ASKED | {"phases": phases})
    assert SweepResults(tmp_path).criterion == expected


def test_the_criterion_is_a_phase_with_lambda(sweep) -> None:
    assert SweepResults(sweep, "A").criterion == "A"
    for phase in ("B", "AA"):
        with pytest.raises(ValueError, match=f"--criterion {phase}: .* one of A, AB"):
            SweepResults(sweep, phase)


def test_what_is_written_states_the_criterion_and_that_it_is_optimistic(sweep) -> None:
    page, figure = SweepResults(sweep).write(sweep)
    words = page.read_text()
    for expected in (
        "| RR^3 | 0.0001 | — | — | 0.8500 ± 0.0707 |",
        "in phase AB over seeds (n = 2)",
        "optimistic",
        "sweep.png",
    ):
        assert expected in words, expected
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_what_is_asked_for_grows_and_settings_do_not(sweep) -> None:
    more = {"weights": [1e-6], "variants": ["RR1"], "phases": ["A"], "seeds": 1}
    open_sweep(sweep, "digits", {"width": 4, "a": {"milestones": (1, 2)}}, more)
    results = SweepResults(sweep)
    assert (results.weights, results.variants, results.seeds) == ([1e-6, 1e-5, 1e-4], ["Std", "RR3", "RR1"], 2)
    with pytest.raises(StudyError, match="width: 4 there, 8 now"):
        open_sweep(sweep, "digits", {"width": 8, "a": {"milestones": (1, 2)}}, ASKED)
    with pytest.raises(StudyError, match="a sweep of 'digits'"):
        open_sweep(sweep, "cifar", {}, ASKED)


def test_a_folder_of_something_else_is_refused(tmp_path, sweep) -> None:
    check_folder(sweep)
    check_folder(tmp_path / "new")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").touch()
    with pytest.raises(StudyError, match="holds no sweep"):
        check_folder(tmp_path / "other")


@pytest.mark.parametrize("wrong", [[], [-1e-5], [math.nan], [math.inf]])
def test_only_lambda_that_can_be_trained(wrong) -> None:
    with pytest.raises(ValueError, match="--weights"):
        check_weights(wrong)
    assert check_weights([1e-4, 0.0, 1e-4]) == [0.0, 1e-4]
