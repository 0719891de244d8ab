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


def test_a_sweep_without_a_phase_that_has_lambda_is_one_line(tmp_path) -> None:
    open_sweep(tmp_path, "digits", {}, ASKED | {"phases": ["B", "A-start"]})
    with pytest.raises(ValueError, match="no phase of this sweep depends on λ"):
        SweepResults(tmp_path)


def test_what_is_written_states_the_criterion_and_that_it_is_optimistic(sweep) -> None:
    page, figure = SweepResults(sweep).write(sweep)
    words = page.read_text()
    for expected in (
        "| RR³ | 0.0001 | — | — | 0.8500 ± 0.0707 |",
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


def test_what_shared_folders_hold_beside_runs_is_no_run(sweep) -> None:
    expected = SweepResults(sweep).rows
    runs = sweep / "weight-1e-05" / "runs"
    for name in (
        "RR3_AB (conflicted copy)/seed-0",
        "RR3_AB/seed-00",
        "RR3_AB/seed-1 (1)",
        "RR^3_AB/seed-0",
        "x/seed-1",
    ):
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text('{"accuracy": 0.1}')
    for name in (".nfs0001", ".DS_Store", "RR3_AB/.DS_Store", "RR3_AB/seed-0/run.json~", "RR3_AB/seed-7"):
        (runs / name).write_text("x")
    (runs / "RR3_AB" / "seed-8").mkdir()
    assert SweepResults(sweep).rows == expected


@pytest.mark.parametrize(
    "content", ["[]", "null", "7", "{}", '{"accuracy": null}', '{"accuracy": "0.9"}', '{"accuracy": NaN}', "{", ""]
)
def test_a_run_without_a_number_is_one_line_with_its_path(sweep, content) -> None:
    path = sweep / "weight-1e-05" / "runs" / "RR3_AB" / "seed-1" / "run.json"
    path.write_text(content)
    with pytest.raises(StudyError, match=f"{path} .*[Dd]elete it"):
        SweepResults(sweep)


@pytest.mark.parametrize("value", [None, [], {}, "x", 7, [7], ["x"], [None], -1, math.nan])
@pytest.mark.parametrize("key", ["experiment", "config", "weights", "variants", "phases", "seeds"])
def test_a_sweep_that_says_something_else_is_one_line_with_its_path(sweep, key, value) -> None:
    known = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps(known | {key: value}))
    right = [("experiment", "x"), ("config", {}), ("weights", [7]), ("seeds", 7)]
    if (key, value) in right:
        assert SweepResults(sweep).experiment
        return
    with pytest.raises(StudyError, match=rf"sweep\.json does not describe a sweep \({key} missing or wrong\)"):
        SweepResults(sweep)
    with pytest.raises(StudyError, match=r"sweep\.json does not describe a sweep"):
        open_sweep(sweep, "digits", known["config"], ASKED)


@pytest.mark.parametrize("content", ["[]", "null", "7", "{}", "{", ""])
def test_a_sweep_json_that_is_none_is_one_line(sweep, content) -> None:
    (sweep / "sweep.json").write_text(content)
    with pytest.raises(StudyError, match=r"sweep\.json (does not describe a sweep|cannot be read)"):
        open_sweep(sweep, "digits", {}, ASKED)


def test_what_systems_leave_in_a_new_folder_is_no_obstacle(tmp_path) -> None:
    for name in (".DS_Store", ".nfs0000", "claims", ".sweep.json.a1b2c3d4"):
        (tmp_path / name).touch()
    check_folder(tmp_path)
