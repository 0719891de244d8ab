import pytest

from racecar.study.protocol import Run, Variant, plan


@pytest.mark.parametrize(
    ("text", "name", "label", "depth", "family"),
    [
        ("Std", "Std", "Std", 0, "Std"),
        ("ort", "Ort", "Ort", 0, "Ort"),
        ("RR6", "RR6", "RR^6", 6, "RR"),
        ("rr^13", "RR13", "RR^13", 13, "RR"),
    ],
)
def test_variants_are_read_as_the_paper_writes_them(text, name, label, depth, family) -> None:
    variant = Variant.parse(text)
    assert (variant.name, variant.label, variant.depth, variant.family) == (name, label, depth, family)


@pytest.mark.parametrize("text", ["", "RR", "RR0", "standard", "RR-1"])
def test_other_variants_are_refused_with_what_is_allowed(text) -> None:
    with pytest.raises(ValueError, match="use Std, Ort or RR"):
        Variant.parse(text)


def test_plan_has_every_run_once_and_sources_first() -> None:
    runs = plan([Variant("Std"), Variant("RR6"), Variant("Std")], range(3))
    assert len(runs) == len(set(runs)) == 3 * (2 + 1 + 4)
    for run in runs:
        if run.source is not None:
            assert runs.index(run.source) < runs.index(run)
            assert run.source.phase == "A"
            assert (run.source.variant, run.source.seed) == (run.variant, run.seed)
    assert {r.variant.name for r in runs if r.phase == "B"} == {"Std"}


def test_names_keys_and_tasks() -> None:
    run = Run(Variant("RR6"), "AB", 3)
    assert run.model == "RR^6_AB"
    assert run.key == "RR6_AB/seed-3"
    assert run.task == "B"
    assert Run.parse(run.key) == run
    with pytest.raises(ValueError, match="not a run"):
        Run.parse("../RR6_AB/seed-3")
