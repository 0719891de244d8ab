"""What the report says of finished runs: verdicts, comparisons, tables and figures, from numbers that are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from racecar.study.classification.keeping import keep
from racecar.study.coarse_to_fine.config import TransferConfig
from racecar.study.coarse_to_fine.outcomes import DRAWS, VERSION
from racecar.study.coarse_to_fine.report import page
from racecar.study.coarse_to_fine.results import TransferResults
from racecar.study.coarse_to_fine.spec import SPEC
from racecar.study.core.folder import Study
from racecar.study.core.growing import remember
from racecar.study.core.variants import Run, Variant
from racecar.study.images.decoded import Images
from racecar.study.report import write_results

CONFIG = TransferConfig(
    variants=["Std", "Dec1", "RR1"], seeds=5, phases=["A-tuned", "B"], tuned={"RR1": 3.0, "Dec1": 1.0}
)


def study_of(
    folder: Path,
    probe: dict[str, float],
    on_a: dict[str, float] | None = None,
    seeds: int = 5,
    pair: str = "mnist-parity",
    config: TransferConfig = CONFIG,
) -> Study:
    """Runs that get so many of 400 test images right, by variant, with a little noise by seed."""
    config = dataclasses.replace(config, seeds=seeds, pair=pair)
    study = SPEC.open(folder, config)
    remember(study, config)
    study.note(setting=f"{pair}, full preset", seconds=1.0)
    for run in config.runs():
        rng = np.random.default_rng([run.seed, len(run.variant.name)])
        if run.phase == "B":
            study.conclude(run, {"accuracy": 0.8, "history": []})
            continue
        right = torch.from_numpy(rng.random(400) < probe[run.variant.name])
        share = float(right.double().mean())
        study.keep(
            run, "answers", {"probe": (right * DRAWS).to(torch.uint8), "probe10": (right * DRAWS).to(torch.uint8)}
        )
        accuracy = (on_a or {}).get(run.variant.name, 0.98) + 1e-4 * run.seed
        numbers = {"probe": share, "probe10": share, "finetuned": 0.85, "knn": share, "information": 2.0}
        more = {"effective_rank": 9.0, "dead_units": 0.1, "probe1": share / 2, "measured": VERSION}
        seconds = {"Std": 1.0, "Dec1": 2.0}.get(run.variant.name, 3.0)
        history = [{"seconds": seconds}, {"seconds": seconds}]
        study.conclude(run, {"accuracy": accuracy, "seconds": 2 * seconds, "history": history, **numbers, **more})
    return study


@pytest.mark.parametrize(
    ("probe", "on_a", "outcome"),
    [
        ({"Std": 0.5, "Dec1": 0.6, "RR1": 0.9}, None, "reproduced"),
        ({"Std": 0.5, "Dec1": 0.9, "RR1": 0.6}, None, "not reproduced"),  # better than Std is not enough
        ({"Std": 0.5, "Dec1": 0.7, "RR1": 0.73}, None, "undecided"),
        ({"Std": 0.5, "Dec1": 0.7, "RR1": 0.66}, None, "not reproduced"),
        ({"Std": 0.5, "Dec1": 0.6, "RR1": 0.9}, {"RR1": 0.9}, "not reproduced"),  # it pays for it on A
    ],
)
def test_the_hypothesis_is_against_the_best_control_at_equal_accuracy_on_a(tmp_path, probe, on_a, outcome) -> None:
    results = TransferResults.load(study_of(tmp_path, probe, on_a), CONFIG)
    (verdict,) = results.verdicts()
    assert verdict.outcome == outcome
    assert "least gain, over Dec^1" in verdict.evidence
    assert "controls: Std, Dec^1" in verdict.evidence
    assert "n = 5 seeds × 400 test images" in verdict.evidence


def test_a_candidate_that_no_tuning_has_named_is_seen_afterwards_and_confirms_nothing(tmp_path) -> None:
    both = dataclasses.replace(CONFIG, variants=[*CONFIG.variants, "RR3"], tuned=CONFIG.tuned | {"RR3": 3.0})
    seen = "RR^1 is the racecar variant with the best probe here: no tuning has chosen it"
    for config, words in ((both, seen), (CONFIG, "RR^1's value was given by --tuned, and not read from a finished")):
        folder = tmp_path / str(len(config.variants))
        probe = {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9, "RR3": 0.8}
        study = study_of(folder, probe, pair="cifar10-animals", config=config)
        (verdict,) = TransferResults.load(study, dataclasses.replace(config, pair="cifar10-animals")).verdicts()
        assert verdict.outcome == "undecided"
        assert words in verdict.evidence


def test_comparisons_are_paired_and_have_the_four_verdicts(tmp_path) -> None:
    results = TransferResults.load(study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9}), CONFIG)
    rr, std, dec = Variant("RR1"), Variant("Std"), Variant("Dec1")
    found = results.compare(rr, std, "probe")
    assert found is not None
    expected = np.mean(results.numbers(results.tuned(rr), "probe")) - np.mean(
        results.numbers(results.tuned(std), "probe")
    )
    assert found.difference.mean == pytest.approx(expected)
    assert (found.verdict, found.difference.n) == ("better", 5)
    worse = results.compare(std, dec, "probe")
    assert worse is not None
    assert worse.verdict == "worse"
    same = results.compare(rr, std, "accuracy")
    assert same is not None
    assert same.verdict == "equivalent"
    gain = results.gain(rr)
    assert gain is not None
    assert gain.mean == pytest.approx(0.05)


def test_one_seed_decides_nothing(tmp_path) -> None:
    config = TransferConfig(**{**vars(CONFIG), "seeds": 1})
    results = TransferResults.load(study_of(tmp_path, {"Std": 0.1, "Dec1": 0.2, "RR1": 0.9}, seeds=1), config)
    assert {v.outcome for v in results.verdicts()} == {"not run"}
    found = results.compare(Variant("RR1"), Variant("Std"), "probe")
    assert found is not None
    assert found.verdict == "undecided"


def test_without_chosen_values_only_the_frontier_is_shown(tmp_path) -> None:
    config = TransferConfig(variants=["RR1"], seeds=1, phases=["A"])
    study = SPEC.open(tmp_path, config)
    remember(study, config)
    study.note(setting="mnist-parity, full preset")
    for number, run in enumerate(config.runs()):
        study.conclude(run, {"accuracy": 0.9, "probe": number / 10, "history": [], "measured": VERSION})
    results = TransferResults.load(study, config)
    assert [(v, round(p.mean, 1)) for v, _, p in results.frontier(Variant("RR1"))] == [
        (0.1, 0.0 + 0.0), (0.3, 0.1), (1.0, 0.2), (3.0, 0.3), (10.0, 0.4),
    ]  # fmt: skip
    assert any("No tuning value chosen for RR^1" in said for said in results.not_run())


def test_page_and_results_file(tmp_path) -> None:
    study = study_of(tmp_path / "s", {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9})
    pixels = torch.randint(256, (200, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(200) % 10, tuple(map(str, range(10))))
    keep(study, images, images)
    made = page(study, CONFIG)
    files = write_results(made, tmp_path / "results")
    assert [f.name for f in files] == [
        "transfer-mnist-parity.md",
        *(f"transfer-mnist-parity-{n}.png" for n in ("outcomes", "few-labels", "frontier")),
    ]
    text = files[0].read_text()
    assert "RR¹ is ahead of every control, the best of them, Dec¹ (+0." in text
    assert "This is a gain of 0.02 at equal accuracy on A." in text
    assert "| RR¹ | 3 (ratio) | 5 |" in text
    assert "+0.0500 [+0.0500, +0.0500]" in text
    assert made.html().count("<svg") == 3
    # Std: 3 × (196·128 + 128·64 + 64·32) + the head's, less the input's gradient; RR^1 goes back through all three.
    assert "| Std | 2.0 | 1.00 | 1.00 | 1.00 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| RR¹ | 6.0 |"))
    assert row.split("|")[4].strip() == "3.00"
    assert 2.2 < float(row.split("|")[5]) < 2.8


def test_values_from_shorter_trainings_are_said_to_be(tmp_path) -> None:
    study = study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9})
    study.note(tuning_epochs=[6, 2])
    asked = f"in trainings of 6 and 2 epochs, here {CONFIG.a.epochs} and {CONFIG.b.epochs}, see docs/plan.md"
    assert asked in page(study, CONFIG).markdown()
    study.note(tuning_epochs=[CONFIG.a.epochs, CONFIG.b.epochs])
    assert "Values were chosen on another pair, see docs/plan.md" in page(study, CONFIG).markdown()


def test_a_pair_for_tuning_has_its_frontier_with_one_seed_and_nothing_is_judged(tmp_path) -> None:
    study = study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9}, seeds=1, pair="mnist-halves")
    text = page(study, TransferConfig(**{**vars(CONFIG), "seeds": 1, "pair": "mnist-halves"})).markdown()
    assert "Tuning values are chosen on this pair: nothing is judged on it" in text
    assert "Smoke test" not in text
    assert "## Frontier" in text


def test_a_missing_run_is_said(tmp_path) -> None:
    study = study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9})
    (study.path(Run(Variant("RR1"), "A-t4", 2)) / "run.json").unlink()
    results = TransferResults.load(study, CONFIG)
    assert "RR^1_A-t4: 4 of 5 seeds finished." in results.not_run()
    found = results.compare(Variant("RR1"), Variant("Std"), "probe")
    assert found is not None
    assert found.difference.n == 4
    (verdict,) = results.verdicts()
    assert (verdict.outcome, verdict.evidence) == ("not run", "waits for RR^1 (4 of 5 seeds)")


def test_what_an_older_version_has_measured_is_left_out_and_said(tmp_path) -> None:
    study = study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9})
    run = Run(Variant("Dec1"), "A-t3", 1)
    study.conclude(run, {**study.metrics(run), "measured": VERSION - 1})  # type: ignore[dict-item]
    results = TransferResults.load(study, CONFIG)
    assert results.not_run()[1].startswith("1 runs measured by an older version are left out")
    assert results.verdicts()[0].evidence == "waits for Dec^1 (4 of 5 seeds)"


def test_what_diverged_is_said_and_holds_the_verdict_back(tmp_path) -> None:
    study = study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9})
    study.conclude(
        Run(Variant("Dec1"), "A-t3", 1), {"accuracy": 0.5, "history": [], "diverged": "the loss is not finite"}
    )
    results = TransferResults.load(study, CONFIG)
    assert any("Diverged, and left out: Dec^1_A-t3, seed 1: the loss" in said for said in results.not_run())
    assert results.verdicts()[0].evidence == "waits for Dec^1 (4 of 5 seeds)"


def test_a_value_at_the_end_of_its_range_is_said(tmp_path) -> None:
    results = TransferResults.load(study_of(tmp_path, {"Std": 0.5, "Dec1": 0.6, "RR1": 0.9}), CONFIG)
    assert not results.at_the_end(Variant("RR1"))
    config = TransferConfig(**{**vars(CONFIG), "tuned": {"RR1": 10.0, "Dec1": 1.0}})
    ended = TransferResults(config, results.metadata, results.runs, results.metrics, results.study)
    assert any("chosen value of RR^1 is at the end of the range" in said for said in ended.not_run())
