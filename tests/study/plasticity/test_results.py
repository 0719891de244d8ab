"""From run.json files to tables and verdicts, against numbers worked out here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from racecar.study.core.folder import Study
from racecar.study.core.growing import remember
from racecar.study.core.variants import Run
from racecar.study.plasticity.config import PlasticityConfig
from racecar.study.plasticity.report import page
from racecar.study.plasticity.results import PlasticityResults
from racecar.study.plasticity.spec import SPEC
from racecar.study.report import write_results

TASKS = 5


def finish(study: Study, run: Run, accuracies: list[float], **more: Any) -> None:
    history = [
        {"task": i + 1, "accuracy": a, "cross_entropy": 1.0, "effective_rank": 3.0 + i, "dead_units": 0.5}
        | {"weight_norm": 2.0}
        for i, a in enumerate(accuracies)
    ]
    mean = sum(accuracies) / len(accuracies)
    study.conclude(run, {"accuracy": mean, "last_fifth": accuracies[-1], "history": history, **more})


def opened(folder: Path, **settings: Any) -> tuple[Study, PlasticityConfig]:
    config = PlasticityConfig(tasks=TASKS, **settings)
    study = SPEC.open(folder, config)
    remember(study, config)
    study.note(setting="small preset", sources={"random-labels": "made up"})
    return study, config


MEANS = {  # by seed
    "Std": [0.30, 0.32, 0.28, 0.31],
    "RR3": [0.60, 0.61, 0.55, 0.62],
    "Dec3": [0.30, 0.31, 0.25, 0.32],
    "SP": [0.6063, 0.6037, 0.5563, 0.6137],  # its 90 % interval lies within ± 0.01, its 95 % interval does not
    "Ort": [0.70, 0.50, 0.45, 0.72],
}


@pytest.fixture
def judged(tmp_path) -> tuple[Study, PlasticityConfig]:
    study, config = opened(tmp_path / "s", seeds=4, variants=list(MEANS))
    for run in config.runs():
        finish(study, run, [MEANS[run.variant.name][run.seed]] * TASKS)
    return study, config


def test_verdicts_on_differences_paired_by_seed(judged) -> None:
    found = {c.statement: c for c in PlasticityResults.load(*judged).comparisons()}
    assert list(found) == ["RR^3 − Dec^3", "RR^3 − Std", "RR^3 − Ort", "RR^3 − SP", "Dec^3 − Std"]
    assert [c.verdict for c in found.values()] == ["better", "better", "undecided", "equivalent", "undecided"]
    assert [c.primary for c in found.values()] == [True, False, False, False, False]
    gain = np.subtract(MEANS["RR3"], MEANS["Std"])
    low, high = stats.t.interval(0.95, 3, gain.mean(), stats.sem(gain))
    std = found["RR^3 − Std"].difference
    assert std is not None
    assert (std.n, std.mean, std.low, std.high) == pytest.approx((4, gain.mean(), low, high))
    raw = {n: stats.ttest_rel(MEANS["RR3"], MEANS[n]).pvalue for n in ("Std", "Ort", "SP")}
    raw["Dec3"] = stats.ttest_rel(MEANS["Dec3"], MEANS["Std"]).pvalue
    assert min(raw, key=lambda n: raw[n]) == "Std"
    assert found["RR^3 − Std"].p == pytest.approx(4 * raw["Std"])  # the smallest of four: Holm multiplies it by four


def test_a_difference_that_does_not_survive_the_correction_is_undecided(tmp_path) -> None:
    study, config = opened(tmp_path / "s", seeds=3, variants=["Std", "RR3", "SP", "Ort", "L2Init"])
    values = {"Std": [0.30, 0.30, 0.30], "RR3": [0.40, 0.42, 0.45], "SP": [0.1, 0.5, 0.9], "Ort": [0.2, 0.5, 0.7]}
    for run in config.runs():
        finish(study, run, [values.get(run.variant.name, [0.9, 0.2, 0.4])[run.seed]] * TASKS)
    p = stats.ttest_rel(values["RR3"], values["Std"]).pvalue
    assert p < 0.05 < 4 * p
    found = {c.statement: c for c in PlasticityResults.load(study, config).comparisons()}
    assert found["RR^3 − Std"].verdict == "undecided"
    assert found["RR^3 − Dec^3"].verdict == "not run"


def test_the_page_and_the_results_file_say_what_was_found(judged, tmp_path) -> None:
    html = page(*judged).html()
    assert "RR<sup>3</sup> − Dec<sup>3</sup> (primary)" in html
    paths = write_results(page(*judged), tmp_path / "out")
    assert [p.name for p in paths] == ["plasticity-random-labels.md", "plasticity-random-labels-by-task.png"]
    text = paths[0].read_text()
    assert "| RR³ − Dec³ (primary) | 4 | +0.300 | [+0.300, +0.300] |" in text
    assert "| RR³ | ratio 0.1 | 4 | 0.595 ± 0.031 |" in text
    assert "Everything that was asked for has been run." in text
    assert "Exploratory" not in text


def test_a_tuning_sequence_chooses_values_and_judges_nothing(tmp_path) -> None:
    study, config = opened(
        tmp_path / "s", seeds=2, variants=["Std", "RR3", "SP"], phases=[f"A-{k}" for k in range(1, 6)]
    )
    for run in config.runs():
        number = int(run.way or 1)
        if run.variant.name == "Std" or number < 5:  # the fifth values were not run
            finish(study, run, [{"RR3": 0.1 * number, "SP": 0.9 - 0.1 * number}.get(run.variant.name, 0.5)] * TASKS)
    results = PlasticityResults.load(study, config)
    assert results.best_values() == {"RR3": 0.1, "SP": 0.05}
    text = page(study, config).markdown()
    assert "It chooses values" not in text
    assert "Chosen: RR3 0.1, SP 0.05." in text
    assert "verdict |" not in text
    assert "| RR³ | ratio | 0.003: 0.100 ± 0.000 |" in text
    assert "| 0.1: 0.400 ± 0.000* | not run | no |" in text
    assert "| SP | a | 0.05: 0.800 ± 0.000* |" in text
    assert text.count("| yes |") == 1  # SP's is the first of its range
    assert "- RR³ ratio 0.3: 0 of 2 seeds finished." in text


def test_a_better_value_than_the_chosen_one_is_said_beside_the_verdicts(tmp_path) -> None:
    study, config = opened(tmp_path / "s", seeds=2, variants=["Std", "RR3", "Dec3"], chosen={"RR3": 0.01, "Dec3": 0.01})
    config = replace(config, phases=["A", "A-1", "A-2", "A-3"], frontier=1)
    for run in config.runs():
        number = int(run.way or 1)
        finish(
            study, run, [{"RR3": 0.1 * number, "Dec3": [0.2, 0.9, 0.3][number - 1]}.get(run.variant.name, 0.5)] * TASKS
        )
    text = page(study, config).markdown()
    assert "**Another value than the chosen one is the best here**: RR3 0.03 (chosen 0.01); see" in text
    assert "| 0.01: 0.200 ± 0.000 (chosen) | 0.03: 0.300* | not run |" in text
    assert "| RR³ − Dec³ | 2 | −0.700 |" in text
    assert "**Exploratory**" in text  # 0.01 is not what permuted pixels have chosen
    assert page(study, config).name == "plasticity-random-labels-other-values"


def test_a_smoke_test_gives_no_verdict(judged) -> None:
    study, config = judged
    study.note(setting="quick preset")
    text = page(study, config).markdown()
    assert "no conclusions" in text
    assert "(primary)" not in text


def test_a_diverged_chain_counts_in_means_and_leaves_gaps_in_curves(tmp_path) -> None:
    study, config = opened(tmp_path / "s", seeds=2, variants=["Std"])
    first, second = config.runs()
    finish(study, first, [0.8] * TASKS)
    finish(study, second, [0.6, 0.4], diverged="not finite")
    results = PlasticityResults.load(study, config)
    (chain,) = results.chains
    values = results.by_task(chain, "accuracy")
    assert values[0].tolist() == [0.8] * TASKS
    assert values[1, :2].tolist() == [0.6, 0.4]
    assert np.isnan(values[1, 2:]).all()
    assert results.late(chain, "effective_rank").n == 1
    assert "1 diverged" in page(study, config).html()


def test_nothing_finished_is_said(tmp_path) -> None:
    study, config = opened(tmp_path / "s", seeds=2, variants=["Std", "RR3"])
    text = page(study, config).markdown()
    assert "- Std: 0 of 2 seeds finished." in text
    assert "| RR³ − Dec³ (primary) | not run |" in text or "| RR³ − Dec³ | not run |" in text
    assert torch.is_grad_enabled()
