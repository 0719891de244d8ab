"""What may be asked for, and which runs follow from it."""

import pytest

from racecar.study.commands.study import preset
from racecar.study.core.variants import Variant
from racecar.study.digits.experiment import Digits
from racecar.study.plasticity.config import RATIOS, PlasticityConfig, strengths


def keys(**settings: object) -> list[str]:
    return [run.key for run in PlasticityConfig(**settings).runs()]  # type: ignore[arg-type]


def test_each_method_runs_at_its_chosen_value() -> None:
    config = PlasticityConfig(
        variants=["Std", "RR3", "Ort"], seeds=2, chosen={"RR3": 0.03, "Ort": 10.0}, phases=["A", "A-first"]
    )
    assert [r.key for r in config.runs()] == [
        *("Std_A/seed-0", "Std_A/seed-1", "RR3_A-3/seed-0", "RR3_A-3/seed-1", "Ort_A-5/seed-0", "Ort_A-5/seed-1"),
        *("RR3_A-3first/seed-0", "RR3_A-3first/seed-1"),
    ]
    assert [config.value(r) for r in config.runs()[::2]] == [None, 0.03, 10.0, 0.03]


def test_all_five_values_of_fewer_seeds_and_no_run_twice() -> None:
    chosen = {"RR1": 0.3}
    five = [f"A-{k}" for k in range(1, 6)]
    found = keys(variants=["RR1", "Reset"], seeds=4, frontier=2, chosen=chosen, phases=["A", *five])
    assert len(set(found)) == len(found)
    assert sorted(found) == sorted(
        [f"RR1_A-{k}/seed-{s}" for k in range(1, 5) for s in range(2)]
        + [f"RR1_A-5/seed-{s}" for s in range(4)]
        + [f"Reset_A/seed-{s}" for s in range(4)]
    )


def test_a_folder_of_all_five_values_does_not_depend_on_the_chosen_ones() -> None:
    five = PlasticityConfig(phases=["A-1", "A-2"], chosen={"RR3": 0.3})
    assert five == PlasticityConfig(phases=["A-1", "A-2"])


def test_methods_with_a_reverse_pass_have_the_ratios_of_this_study() -> None:
    assert strengths(Variant("RR3").method) == strengths(Variant("Dec1").method) == RATIOS
    assert strengths(Variant("SP").method) == Variant("SP").method.strengths
    assert strengths(Variant("Std").method) == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variants": ["LS"]}, "no variant LS in this study: use L2Init, Std, StdC, Reset, SP, Ort, RR1 to RR3"),
        ({"variants": ["RR4"]}, "no variant RR4 in this study: use .*RR1 to RR3, Dec1 to Dec3"),
        ({"variants": ["RR3-end"]}, "no variant RR3-end"),
        ({"variants": []}, "name at least one each"),
        ({"variants": ["Reset"], "sequence": "class-sequence"}, "Reset is Std in the class sequence"),
        ({"phases": ["B"]}, "no phase 'B' in this study"),
        ({"phases": ["A-6"]}, "no phase 'A-6' in this study"),
        ({"phases": ["A-"]}, "no phase 'A-' in this study"),
        ({"variants": ["RR2"]}, "RR2 has no value in chosen: give one of 0.003, 0.01"),
        ({"chosen": {"RR3": 0.02}}, "chosen: RR3 has no value 0.02, only 0.003, 0.01, 0.03, 0.1, 0.3"),
        ({"batch_size": 500}, "batches of 500 need more than 200 train_images"),
        ({"classes": 1}, "one class is no task"),
        ({"tasks": 0}, "tasks must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_what_cannot_be_is_refused(settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        PlasticityConfig(**settings)


@pytest.mark.parametrize("variant", ["SP", "Reset"])
def test_studies_without_a_chain_of_tasks_refuse_what_acts_between_them(variant) -> None:
    with pytest.raises(ValueError, match=f"{variant}: no variant of this study"):
        Digits().check(preset("digits", "--variants", variant))
    for study in ("mutual-information", "smoke"):
        with pytest.raises(ValueError, match=rf"({variant} is no variant of|no variant {variant} in) this study"):
            preset(study, "--variants", variant)
