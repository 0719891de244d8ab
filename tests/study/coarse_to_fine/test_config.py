"""What the coarse-to-fine study may be asked for: runs by tuning value, chosen values, recipes."""

import pytest

from racecar.study.classification.recipe import Recipe
from racecar.study.coarse_to_fine.config import TransferConfig, strength_of
from racecar.study.coarse_to_fine.tuning import best
from racecar.study.core.variants import Run, Variant


def keys(config: TransferConfig) -> list[str]:
    return [r.key.removesuffix("/seed-0") for r in config.runs() if r.seed == 0]


def test_every_tuning_value_is_a_run_of_its_own_and_from_scratch_is_stds() -> None:
    config = TransferConfig(variants=["Std", "RR1"], seeds=2)
    assert keys(config) == ["Std_B", "Std_A", *(f"RR1_A-t{i}" for i in range(1, 6))]
    assert [strength_of(r) for r in config.runs() if r.seed == 1] == [0.0, 0.0, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert all(Run.parse(r.key) == r for r in config.runs())


def test_chosen_values_alone_and_beside_all() -> None:
    config = TransferConfig(variants=["Std", "RR1", "Ort"], seeds=1, phases=["A-tuned"], tuned={"RR1": 3, "Ort": 0.01})
    assert keys(config) == ["Std_A", "RR1_A-t4", "Ort_A-t2"]
    assert config.tuned_phase(Variant("RR1")) == "A-t4"
    assert TransferConfig(variants=["RR1"]).tuned_phase(Variant("RR1")) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variants": []}, "variants is empty"),
        ({"variants": ["RR4"]}, "RR4: the network of mnist-parity has 3 layers to compare"),
        ({"variants": ["RR3-pooled"]}, "RR3-pooled: the network of mnist-parity has no pooling"),
        ({"pair": "mnist"}, "no pair 'mnist': use mnist-parity"),
        ({"phases": ["AB"]}, "no phase 'AB': use A, A-tuned, B"),
        ({"phases": ["B"]}, "add A or A-tuned"),
        ({"tuned": {"RR1": 2.0}}, "RR1 has no value 2: use 0.1, 0.3, 1, 3, 10"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"train_images": 0}, "train_images must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        TransferConfig(**settings)


def test_chosen_values_alone_have_to_be_there_when_runs_are_asked_for() -> None:
    config = TransferConfig(phases=["A-tuned"])  # the values may come from another study, later
    with pytest.raises(ValueError, match="A-tuned needs the chosen value of RR1: give --tuned-on"):
        config.runs()


def test_what_a_method_changes_of_the_recipe() -> None:
    config = TransferConfig(variants=["Std", "StdC", "LS"], a=Recipe(epochs=10), compute_match=2.1)
    recipes = {r.key: config.recipe(r) for r in config.runs() if r.seed == 0}
    assert recipes["StdC_A/seed-0"].epochs == 21
    assert recipes["LS_A-t3/seed-0"] == Recipe(epochs=10, label_smoothing=0.2)
    assert recipes["Std_B/seed-0"].epochs == 20  # as many as both phases


@pytest.mark.parametrize(
    ("accuracy", "probe", "floor", "value"),
    [
        ({1: [0.9, 0.9], 3: [0.9, 0.8]}, {1: [0.5, 0.5], 3: [0.7, 0.7]}, 0.84, 3),
        ({1: [0.9, 0.9], 3: [0.9, 0.8]}, {1: [0.5, 0.5], 3: [0.7, 0.7]}, 0.86, 1),  # 3 loses too much on A
        ({1: [0.5], 3: [0.6]}, {1: [0.9], 3: [0.1]}, 0.9, 3),  # none is good enough on A: the least bad
    ],
)
def test_the_best_probe_at_equal_accuracy_on_a_is_chosen(accuracy, probe, floor, value) -> None:
    assert best(accuracy, probe, floor) == value
