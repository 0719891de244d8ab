"""Verdicts, collapses and settled budgets of made-up runs whose answers are known."""

import math

import pytest
import torch
from scipy import stats

from racecar.study.core.files import write_tensors
from racecar.study.core.growing import remember
from racecar.study.core.variants import Run
from racecar.study.smoke import experiment
from racecar.study.smoke.config import SmokeConfig
from racecar.study.smoke.frames import Frames
from racecar.study.smoke.results import SmokeResults
from racecar.study.smoke.spec import SPEC

CONFIG = SmokeConfig(seeds=3, phases=["A", "B1", "AB1"], width=4, discriminator_width=2, steps_a=40, steps_b=30)
L2 = {"Std_A": (9, 9, 9), "RR6_A": (8, 8, 8), "Std_AB1": (30, 200, 60), "RR6_AB1": (10, 20, 40), "Std_B1": (20, 20, 20)}


def history(values, **more) -> list[dict[str, float]]:
    return [{"step": 10 * (i + 1), "l2": v, **{k: x[i] for k, x in more.items()}} for i, v in enumerate(values)]


def kept(study, key: str, l2: float, points, **more) -> None:
    steps = points[-1]["step"]
    metrics = {"l2": l2, "psnr": 20.0, "dssim": 0.1, "collapsed": l2 > 90, "seconds_per_step": 0.1, "steps": steps}
    metrics |= {"constants": {"black": 200.0, "grey": 100.0}, "history": points, **more}
    run = Run.parse(key)
    frames = experiment.kept_data(study, run.task)
    weights = experiment.make_training(study, CONFIG, run, frames).modules[0].state_dict()
    study.finish(run, weights, metrics)
    if run.phase == "A":
        write_tensors(study.path(run) / "early.safetensors", weights)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found = SPEC.open(tmp_path_factory.mktemp("made") / "up", CONFIG)
    pictures = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    experiment.keep_data(found, "A", Frames(pictures[:3], pictures[3:]))
    remember(found, CONFIG)
    for seed in range(3):
        for model, values in L2.items():
            if model.endswith("_A"):
                error = 0.1 if model == "RR6_A" else 1.2
                # Std is ahead in L2 at first; the regeneration's order never changes.
                early = (12, 10, 9, 8) if model == "RR6_A" else (11, 9.5, 9.2, 9)
                points = history(early, regeneration_error=[error] * 4)
                regeneration = {"error": error, "correlation": 0.9, "psnr": 20.0}
                kept(found, f"{model}/seed-{seed}", values[seed], points, regeneration=regeneration)
            else:
                points = history([2 * values[seed], 1.25 * values[seed], values[seed]])
                kept(found, f"{model}/seed-{seed}", values[seed], points)
    return found


@pytest.fixture
def results(study) -> SmokeResults:
    return SmokeResults.load(study, CONFIG)


def verdict(results: SmokeResults, words: str):
    found = [v for v in results.verdicts() if words in v.claim]
    assert len(found) == 1, [v.claim for v in found]
    return found[0]


def test_ratios_are_geometric_and_paired_by_seed(results) -> None:
    found = results.ratio("RR^6_AB1", "Std_AB1")
    logs = [math.log(x) for x in (3, 10, 1.5)]
    mean, error = sum(logs) / 3, stats.sem(logs)
    low, high = stats.t.interval(0.95, 2, mean, error)
    assert (found.n, found.mean) == (3, pytest.approx(mean))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    evidence = verdict(results, "outperforms Std after transfer to B1").evidence
    assert f"×{math.exp(mean):.3g} (geometric mean" in evidence
    assert "medians 60 and 20; collapsed: Std_AB1 1 of 3, RR^6_AB1 0 of 3" in evidence
    assert "the paper has ×44.9 by means, ×8.7 by medians" in evidence


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("RR^6 outperforms Std after transfer to B1", "undecided"),
        ("RR^6 outperforms training on B1 from scratch", "undecided"),
        ("RR^6_A recovers more of the input than Std_A", "reproduced"),
        ("RR^6_A recovers the low resolution", "reproduced"),
        ("Std_A fails to", "reproduced"),
        ("RR^6_A recovers more of the input than an untied decoder", "not run"),
        ("after transfer to B2", "not run"),
        ("compute-matched", "not run"),
    ],
)
def test_outcomes(results, words, outcome) -> None:
    assert {v.outcome for v in results.verdicts() if words in v.claim and "leaky" not in v.claim} == {outcome}


def test_a_claim_that_is_wrong_is_not_reproduced(study) -> None:
    for seed in range(3):
        points = history([1.0, 1.0, 1.0])
        kept(study, f"Std_AB1/seed-{seed}", 1.0 + 0.01 * seed, points)
    try:
        found = verdict(SmokeResults.load(study, CONFIG), "outperforms Std after transfer to B1")
        assert found.outcome == "not reproduced"
    finally:
        for seed, value in enumerate(L2["Std_AB1"]):
            kept(study, f"Std_AB1/seed-{seed}", value, history([2 * value, 1.25 * value, value]))


def test_an_order_is_settled_when_it_does_not_change_any_more(results) -> None:
    found = {s.subject: s for s in results.settled()}
    upscaling = found["phase I: L2 of the super-resolution"]
    assert (upscaling.ahead, upscaling.step, upscaling.total) == ("RR^6_A", 30, 40)
    assert upscaling.end.mean == pytest.approx(math.log(9 / 8))
    assert found["phase I: error of the regenerated input"].step == 10
    assert (found["AB1: L2"].ahead, found["AB1: L2"].step) == ("RR^6_AB1", None)  # ahead, and undecided
    assert found["AB1 against B1: L2"].end.n == 3


def test_a_diverged_run_is_said_and_settles_nothing(study) -> None:
    wild = {"error": 1e30, "correlation": 0.0, "psnr": -300.0}
    kept(study, "Std_A/seed-0", 1e30, [{"step": 1, "l2": 1e30}], diverged="not finite in step 1", regeneration=wild)
    metrics = study.metrics(Run.parse("Std_A/seed-0"))
    study.finish(Run.parse("Std_A/seed-0"), study.weights(Run.parse("Std_A/seed-0")), metrics | {"history": []})
    try:
        results = SmokeResults.load(study, CONFIG)
        assert "Diverged: Std_A, seed 0: not finite in step 1." in results.not_run()
        assert {s.end.n for s in results.settled() if s.subject.startswith("phase I")} == {2}
    finally:
        points = history((11, 9.5, 9.2, 9), regeneration_error=[1.2] * 4)
        regeneration = {"error": 1.2, "correlation": 0.9, "psnr": 20.0}
        kept(study, "Std_A/seed-0", 9, points, regeneration=regeneration)


def test_flatness_is_the_fall_over_the_last_fifth(results) -> None:
    # Of 40 steps, 32 are four fifths: from the point at step 30 to the end.
    assert results.flatness("Std_A") == pytest.approx(1 - 9 / 9.2)
    assert results.flatness("RR^6_AB1") == pytest.approx(1 - 1 / 1.25)
    assert math.isnan(results.flatness("Std_AB2"))


def test_the_median_run_is_no_lucky_one(results) -> None:
    assert results.median_run("Std_AB1") == Run.parse("Std_AB1/seed-2")
    assert results.median_run("Std_AB2") is None
    assert results.collapsed("Std_AB1") == "1 of 3"


def test_what_was_not_run_is_said(results) -> None:
    said = "\n".join(results.not_run())
    assert "Std_AB2, RR^6_AB2, Std_B2 of Table 6: not in this configuration." in said
    assert "width 4 (64 in the paper)" in said
    assert "40 of phase I and 30 of the auto-encoders" in said
    assert "the perceptual distance is 1 − SSIM" in said


def test_upscaling_is_measured_against_nearest_upsampling(results, study) -> None:
    test = experiment.kept_data(study, "A").test
    nearest = test.view(3, 1, 4, 4, 4, 4).mean((3, 5)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert results.baseline["mse"] == pytest.approx(float((nearest - test).square().mean()), rel=1e-4)
