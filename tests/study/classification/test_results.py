"""Claims, controls, regeneration and cost of a classification study, from made-up runs."""

import math
from pathlib import Path

import numpy as np
from scipy import stats

from racecar.study.cifar.experiment import Cifar
from racecar.study.classification.experiment import ClassificationConfig
from racecar.study.classification.results import ClassificationResults
from racecar.study.core.folder import Study
from racecar.study.core.growing import open_study, remember
from racecar.study.digits.experiment import Digits
from racecar.study.report.statistics import compact

GAINS = {"A": 0.0, "B": -0.03, "AA": 0.01, "AB": -0.02, "AB-probe": -0.1, "AB-1pct": -0.2, "B-1pct": -0.4}
LEVELS = {"Std": 0.95, "StdC": 0.955, "Ort": 0.94, "RR3": 0.97, "RR1": 0.96, "Dec3": 0.965, "RR13": 0.7, "RR13s": 0.6}


def made_up(folder: Path, experiment, config: ClassificationConfig, leave_out: str = "none") -> Study:
    """A finished study whose accuracies follow from variant, phase and seed; weights are empty."""
    study = open_study(folder, experiment.name, config)
    remember(study, config)
    study.note(sources={"A": "first source", "B": "second source"}, setting="paper recipe, small preset")
    for run in config.runs():
        if run.key.startswith(leave_out):
            continue
        noise = 0.001 * np.random.default_rng(list(run.key.encode())).standard_normal()
        accuracy = LEVELS[run.variant.name] + GAINS[run.phase] + noise
        history = [
            {"epoch": e, "accuracy": accuracy - 0.1 / e if e != 2 else None, "seconds": 2.0 + run.variant.depth}
            for e in (1, 2, 3)
        ]
        metrics = {"accuracy": accuracy, "seconds_per_epoch": 2.0 + run.variant.depth, "history": history}
        if run.phase == "A":
            error = 0.2 if run.variant.depth else 300.0
            metrics["regeneration"] = {"error": error * (1 + 0.1 * run.seed), "correlation": 0.9}
        study.finish(run, {}, metrics)
    return study


def loaded(tmp_path: Path, experiment, config: ClassificationConfig, leave_out: str = "none") -> ClassificationResults:
    return ClassificationResults.load(made_up(tmp_path / "s", experiment, config, leave_out), experiment, config)


DIGITS = ClassificationConfig(variants=["Std", "Ort", "RR3", "RR1", "Dec3", "StdC"], seeds=4)


def test_the_claims_of_section_5_1(tmp_path) -> None:
    found = loaded(tmp_path, Digits(), DIGITS)
    outcomes = {v.claim: v.outcome for v in found.verdicts()}
    assert outcomes["The racecar loss makes the task harder: lower accuracy in phase I"] == "not reproduced"
    for claim in (
        "outperforms Std when training",
        "Ort after transfer",
        "from scratch",
        "compute-matched",
        "untied",
        "RR^1",
    ):
        assert [o for c, o in outcomes.items() if claim in c] == ["reproduced"], claim
    assert "not run" not in outcomes.values()


def test_evidence_has_the_paired_effect_its_interval_and_the_papers(tmp_path) -> None:
    found = loaded(tmp_path, Digits(), DIGITS)
    a, b = found.accuracies("RR^3_AB"), found.accuracies("Std_AB")
    limits = stats.ttest_rel(a, b).confidence_interval(0.95)
    (verdict,) = [v for v in found.verdicts() if v.claim == "RR^3 outperforms Std after transfer to B"]
    for words in (f"{np.mean(a) - np.mean(b):+.4f}", f"[{limits.low:+.4f}, {limits.high:+.4f}]", "n = 4", "+0.0093"):
        assert words in verdict.evidence
    (control,) = [v for v in found.verdicts() if "compute-matched" in v.claim]
    assert control.where == "control, not in the paper"
    assert "the paper has" not in control.evidence


def test_a_gain_below_delta_is_no_gain(tmp_path, monkeypatch) -> None:
    config = ClassificationConfig(variants=["Std", "RR3"], seeds=4)
    claim = "RR^3 outperforms Std when training on A continues"
    for gain, experiment, expected in (
        (0.002, Digits(), "equivalent"),
        (0.0075, Digits(), "reproduced"),
        (0.0075, Cifar(), "equivalent"),
        (0.02, Cifar(), "reproduced"),
    ):
        monkeypatch.setitem(LEVELS, "RR3", LEVELS["Std"] + gain)
        found = loaded(tmp_path / f"{experiment.name}-{gain}", experiment, config)
        assert [v.outcome for v in found.verdicts() if v.claim == claim] == [expected]


def test_regeneration_is_judged_by_ratios(tmp_path) -> None:
    found = loaded(tmp_path, Digits(), DIGITS)
    most, more, ort = [v for v in found.verdicts() if "Figure 5" in v.where]
    assert most.outcome == more.outcome == ort.outcome == "reproduced"
    assert "×1.5e+03" in more.evidence  # 300 over 0.2 at every seed
    assert "4 of 4 runs below 1" in most.evidence
    assert compact(1e30) == compact(math.inf) == "overflow"


def test_controls_of_cifar_and_of_every_way(tmp_path) -> None:
    phases = ["A", "B", "AA", "AB", "AB-probe", "AB-1pct", "B-1pct"]
    found = loaded(tmp_path, Cifar(), ClassificationConfig(variants=["Std", "RR13s", "RR13"], phases=phases, seeds=3))
    assert found.headline == "RR^13"
    pairs = {v.evidence.partition(" = ")[0]: v.outcome for v in found.verdicts()}
    assert pairs["RR^13_A − RR^13s_A"] == "reproduced"
    assert pairs["Std_B − Std_AB"] == "not reproduced"
    for words in ("RR^13_AB-probe − Std_AB-probe", "RR^13_AB-1pct − Std_AB-1pct", "RR^13_AB-1pct − Std_B-1pct"):
        assert words in pairs
    assert "Std_B-probe" not in "".join(pairs)


def test_what_was_not_run_is_named_and_never_filled_in(tmp_path) -> None:
    found = loaded(
        tmp_path,
        Digits(),
        ClassificationConfig(variants=["Std", "RR3"], seeds=2, phases=["A", "B", "AA", "AB"]),
        "RR3_AB",
    )
    text = "\n".join(found.not_run())
    for words in (
        "Ort_A, Ort_AA, Ort_AB of Tables 3 and 4: not in",
        "RR^3_AB: 0 of 2 seeds",
        "this configuration 2",
        "paper preset",
    ):
        assert words in text
    verdicts = {v.claim: v for v in found.verdicts()}
    assert verdicts["RR^3 outperforms Std after transfer to B"].outcome == "not run"
    assert verdicts["RR^3 outperforms training on B from scratch"].evidence == "RR^3_AB not run"
    assert found.summary("RR^3_AB").n == 0


def test_cost_beside_the_papers(tmp_path) -> None:
    rows = {r[0]: r for r in loaded(tmp_path, Digits(), DIGITS).cost_rows({"Std": 1.0, "RR3": 2.02})}
    assert rows["RR^3"][2:] == ["2.50×", "2.02×", "5.675", "1.61×"]
    assert rows["Std"][1] == "2.000 (2.000 – 2.000), n = 4"
    assert rows["Dec^3"][3:] == ["—", "—", "—"]


def test_curves_leave_out_epochs_without_an_evaluation(tmp_path) -> None:
    found = loaded(tmp_path, Digits(), DIGITS)
    curve = found.curves("RR^3_A")[0]
    assert curve.epochs == [1, 3]
    assert curve.seconds == [5.0, 15.0]
    run = found.median_run("RR^3_A")
    assert sorted(found.accuracies("RR^3_A"))[1] == found.metrics[run]["accuracy"]


def test_one_evaluation_is_no_curve(tmp_path) -> None:
    found = loaded(tmp_path, Digits(), DIGITS)
    before = len(found.curves("RR^3_A"))
    del found.metrics[found.median_run("RR^3_A")]["history"][1:]
    assert len(found.curves("RR^3_A")) == before - 1
