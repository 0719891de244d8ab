"""The controls of the 12-bit study, its table of saturated layers and its results files."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from racecar.study.core.growing import remember
from racecar.study.core.variants import Run
from racecar.study.mutual_information.config import MutualInformationConfig
from racecar.study.mutual_information.results import MutualInformationResults
from racecar.study.mutual_information.spec import SPEC
from racecar.study.studies import page_of

WAYS = ["AB-head", "AB-two", "AB-shrink", "A-early", "AB-early"]
ACCURACY = {
    "Std_A": [0.9, 0.91, 0.92],
    "RR6_A": [0.85, 0.86, 0.85],
    "Std_B": [0.93, 0.94, 0.95],
    "Std_AB": [0.1, 0.2, 0.15],
    "RR6_AB": [0.91, 0.92, 0.9],
    "Std_AB-head": [0.92, 0.93, 0.941],
    "RR6_AB-head": [0.93, 0.92, 0.94],
    "Std_AB-two": [0.8, 0.81, 0.83],
    "RR6_AB-two": [0.9, 0.92, 0.91],
    "Std_AB-shrink": [0.5, 0.99, 0.9],
    "Std_A-early": [0.8, 0.8, 0.8],
    "Std_AB-early": [0.3, 0.4, 0.45],
}


def study(folder: Path, phases: list[str], measured: bool = True) -> Path:
    """A finished study with the accuracies above; all but the numbers that decide something are the same."""
    config = MutualInformationConfig(variants=["Std", "RR6"], phases=phases, seeds=3, snapshots=2)
    made = SPEC.open(folder, config)
    remember(made, config)
    for run in config.runs():
        values = ACCURACY.get(run.key.partition("/")[0])
        if values is None:
            continue
        point = {"epoch": 0, "accuracy": values[run.seed], "loss": None, "information": [[1.0, 0.5]] * 6}
        if measured:
            point |= {"saturated": 0.7 + 0.1 * run.seed, "slope": 0.02 * (1 + run.seed)}
        made.conclude(run, {"epochs": 1, "accuracy": values[run.seed], "history": [point, {**point, "epoch": 1}]})
    return folder


@pytest.fixture
def results(tmp_path) -> MutualInformationResults:
    return MutualInformationResults.load(*SPEC.reopen(study(tmp_path / "s", ["A", "B", "AB", *WAYS])))


@pytest.mark.parametrize(
    ("claim", "better", "worse", "margin", "expected"),
    [
        ("Std transfers better with the last layer drawn anew", "Std_AB-head", "Std_AB", 0, "reproduced"),
        ("Std transfers better with phase I ended after a tenth", "Std_AB-early", "Std_AB", 0, "reproduced"),
        ("features are not what fails: with the last layer ", "Std_AB-head", "Std_B", 0.02, "reproduced"),
        ("features are not what fails: with the last two", "Std_AB-two", "Std_B", 0.02, "not reproduced"),
        ("weights kept outperforms Std with the last layer", "RR6_AB", "Std_AB-head", 0, "undecided"),
        ("weights kept outperforms Std with the last two", "RR6_AB", "Std_AB-two", 0, "reproduced"),
        ("weights kept outperforms Std with all weights shrunk", "RR6_AB", "Std_AB-shrink", 0, "undecided"),
        ("weights kept outperforms Std with phase I ended", "RR6_AB", "Std_AB-early", 0, "reproduced"),
        ("RR^6 outperforms Std, both with the last two", "RR6_AB-two", "Std_AB-two", 0, "reproduced"),
    ],
)
def test_every_control_is_a_paired_difference(results, claim, better, worse, margin, expected) -> None:
    verdict = next(v for v in results.verdicts() if claim in v.claim)
    paired = stats.ttest_rel(ACCURACY[better], ACCURACY[worse]).confidence_interval(0.95)
    said = "reproduced" if paired.low > -margin else "not reproduced" if paired.high < -margin else "undecided"
    assert verdict.outcome == said == expected
    effect = np.mean(ACCURACY[better]) - np.mean(ACCURACY[worse])
    assert (
        f"= {effect:+.3f}, paired by seed, 95 % CI [{paired.low:+.3f}, {paired.high:+.3f}], n = 3" in verdict.evidence
    )
    assert ("the claim allows −0.02" in verdict.evidence) == bool(margin)
    assert verdict.where == "control, not in the paper"


def test_controls_follow_the_phases(tmp_path, results) -> None:
    plain = MutualInformationResults.load(*SPEC.reopen(study(tmp_path / "plain", ["A", "B", "AA", "AB"])))
    assert not [v for v in plain.verdicts() if "control" in v.where]
    assert [v.claim for v in results.verdicts()][: len(plain.verdicts())] == [v.claim for v in plain.verdicts()]
    one = MutualInformationResults.load(*SPEC.reopen(study(tmp_path / "one", ["A", "B", "AB", "AB-shrink"])))
    assert len([v for v in one.verdicts() if "control" in v.where]) == 2


def test_saturation_stands_in_the_results_where_it_was_measured(tmp_path) -> None:
    def written(name: str, measured: bool) -> str:
        return page_of(study(tmp_path / name, ["A", "B", "AB"], measured)).markdown()

    assert "| Std_A | 3 | 0.800 ± 0.100 | 0.040 ± 0.020 |" in written("new", True)
    assert "saturated" not in written("old", False)


def test_one_old_run_among_new_ones_is_left_out(tmp_path) -> None:
    folder = study(tmp_path / "s", ["A", "B", "AB"])
    path = folder / "runs" / Run.parse("Std_A/seed-2").key / "run.json"
    content = json.loads(path.read_text())
    for point in content["history"]:
        del point["saturated"], point["slope"]
    path.write_text(json.dumps(content))
    assert "| Std_A | 2 | 0.750 ± 0.071 | 0.030 ± 0.014 |" in page_of(folder).markdown()


def test_restarts_have_a_results_file_of_their_own(tmp_path) -> None:
    plain, more = (
        page_of(study(tmp_path / "a", ["A", "B", "AB"])),
        page_of(study(tmp_path / "b", ["A", "B", "AB", *WAYS])),
    )
    assert plain.name == "mutual-information-paper"
    assert more.name == "twelve-bit-restarts-paper"
    assert "Transfer with the last two layers drawn anew" in more.html()
    assert "begins with the last layer, or the last two, drawn anew (seed + 20000)" in more.markdown()
    assert "seed + 20000" not in plain.markdown()
