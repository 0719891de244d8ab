import pytest

from racecar.study.core.methods.rr import RR
from racecar.study.core.variants import Run, Variant, plan

CHEAPER_NONE = [
    *("Dec3-every2", "Std-every2", "RR3-every0", "RR3-every", "RR3-every2-every4", "RR3-fraction2", "RR3-fraction0.0"),
    *("RR3-layerwise2", "RR3-", "RR3-often", "RR3every2"),
]


@pytest.mark.parametrize(
    ("text", "name", "label", "depth", "family"),
    [
        ("Std", "Std", "Std", 0, "Std"),
        ("ort", "Ort", "Ort", 0, "Ort"),
        ("RR6", "RR6", "RR^6", 6, "RR"),
        ("rr^13", "RR13", "RR^13", 13, "RR"),
        ("RR13s", "RR13s", "RR^13s", 13, "RR"),
        ("dec3", "Dec3", "Dec^3", 3, "Dec"),
        ("RR3-every8", "RR3-every8", "RR^3-every8", 3, "RR"),
        ("rr^13s-layerwise-Fraction0.25", "RR13s-fraction0.25-layerwise", "RR^13s-fraction0.25-layerwise", 13, "RR"),
        ("STDC", "StdC", "StdC", 0, "StdC"),
    ],
)
def test_variants_are_read_as_the_paper_writes_them(text, name, label, depth, family) -> None:
    variant = Variant.parse(text)
    assert (variant.name, variant.label, variant.depth, variant.family) == (name, label, depth, family)


@pytest.mark.parametrize("text", ["", "RR", "RR0", "standard", "RR-1", "Dec3s", "Orts", *CHEAPER_NONE])
def test_other_variants_are_refused_with_what_is_allowed(text) -> None:
    with pytest.raises(ValueError, match="use Ort, Std, Early, LS, Proj, Reset, StdC, L2Init, Pre, SP, or RR"):
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


def test_shared_statistics_are_a_variant_of_their_own() -> None:
    assert Variant.parse("RR^13s").method == RR(13, shared=True)
    assert Variant.parse("RR13").method == RR(13)
    assert Variant.parse("Std").method.arguments == {}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("RR6", {"layers": 6}),
        ("Std", {}),
        ("RR6-every4", {"layers": 6, "every": 4}),
        (
            "RR13s-subset2-layerwise",
            {"layers": 13, "norm_statistics": "shared", "subset": 2, "layerwise": True},
        ),
        ("RR6-fraction.25", {"layers": 6, "fraction": 0.25}),
    ],
)
def test_cheaper_ways_are_arguments_of_racecar(text, arguments) -> None:
    variant = Variant.parse(text)
    assert variant.method.arguments == arguments
    run = Run(variant, "AB-probe", 2)
    assert Run.parse(run.key) == run


def test_a_way_of_a_phase_has_the_phases_task_and_source() -> None:
    runs = plan([Variant("Std"), Variant("RR3")], [0], ["A", "AB-probe", "B-1pct"])
    assert [r.model for r in runs] == ["Std_A", "RR^3_A", "Std_B-1pct", "Std_AB-probe", "RR^3_AB-probe"]
    probe = runs[-1]
    assert (probe.path, probe.way, probe.task) == ("AB", "probe", "B")
    assert probe.source == Run(Variant("RR3"), "A", 0)
    assert runs[2].source is None
    assert all(Run.parse(r.key) == r for r in runs)


def test_an_early_end_of_phase_one_is_a_source_of_its_own() -> None:
    runs = plan([Variant("Std"), Variant("RR6")], [0], ["AB-early", "B", "A-early", "B"])
    assert [r.model for r in runs] == [
        *("Std_B", "Std_A-early", "RR^6_A-early", "Std_AB-early", "RR^6_AB-early"),
    ]
    early = runs[-1]
    assert (early.task, early.source) == ("B", Run(Variant("RR6"), "A-early", 0))
    assert (early.source.task, early.source.source) == ("A", None)
    with pytest.raises(ValueError, match="AB-early continues from phase I: add A-early"):
        plan([Variant("Std")], [0], ["A", "AB-early"])


def test_a_study_may_have_several_tasks_b() -> None:
    runs = plan([Variant("Std"), Variant("RR6")], [0], ["A", "B1", "B2", "AB1", "AB2", "AB1-early"])
    assert [r.model for r in runs if r.phase[0] == "B"] == ["Std_B1", "Std_B2"]
    assert {r.task for r in runs} == {"A", "B1", "B2"}
    early = next(r for r in runs if r.key == "RR6_AB1-early/seed-0")
    assert (early.task, early.path, early.way) == ("B1", "AB1", "early")
    assert early.source == Run(Variant("RR6"), "A", 0)
    assert all(Run.parse(r.key) == r for r in runs)
    assert all(r.source is None or runs.index(r.source) < runs.index(r) for r in runs)


@pytest.mark.parametrize(
    ("phases", "said"),
    [(["A", "C"], "no phase 'C'"), (["AB"], "add A to the phases"), (["A", "AB-"], "no phase 'AB-'")],
)
def test_phases_that_are_none_are_refused(phases, said) -> None:
    with pytest.raises(ValueError, match=said):
        plan([Variant("Std")], [0], phases)


def test_names_keys_and_tasks() -> None:
    run = Run(Variant("RR6"), "AB", 3)
    assert run.model == "RR^6_AB"
    assert run.key == "RR6_AB/seed-3"
    assert run.task == "B"
    assert Run.parse(run.key) == run
    with pytest.raises(ValueError, match="not a run"):
        Run.parse("../RR6_AB/seed-3")
