"""A configuration goes into a study's folder and comes back; what was asked for grows, settings do not."""

import dataclasses
import json

import pytest

from racecar.study import studies
from racecar.study.commands.study import preset
from racecar.study.core.errors import StudyError
from racecar.study.core.growing import open_study, remember, reopen

KEPT = ("experiment", "config", "command", "started", "environment", "seconds")


@pytest.mark.parametrize("name", studies.registered())
def test_every_preset_comes_back_from_its_folder_as_it_was(tmp_path, name) -> None:
    spec = studies.spec_of(name)
    for number, which in enumerate(spec.presets):
        config = preset(name, "--preset", which)
        study = spec.open(tmp_path / str(number), config)
        remember(study, config)
        again, found = spec.reopen(study.folder)
        assert (again.folder, found) == (study.folder, config)


@pytest.mark.parametrize("name", studies.registered())
def test_what_may_grow_is_kept_beside_the_settings(tmp_path, name) -> None:
    config = preset(name)
    grown = ["variants", "phases", "seeds", *(["tuned"] if hasattr(config, "tuned") else [])]
    study = open_study(tmp_path / "s", name, config)
    remember(study, config)
    content = json.loads((study.folder / "study.json").read_text())
    assert list(content) == [*KEPT, *grown]
    assert not content["config"].keys() & set(grown)


def test_what_was_asked_for_grows_and_another_setting_is_refused(tmp_path) -> None:
    first = preset("digits", "--variants", "RR3", "Std", "--phases", "A", "--seeds", "2", "--a.epochs", "3")
    for more in ({}, {"variants": ["rr^1", "Std"], "seeds": 1}, {"phases": ["A", "AB"], "seeds": 4}):
        config = dataclasses.replace(first, **more)
        remember(open_study(tmp_path / "s", "digits", config), config)
    _, found = reopen(tmp_path / "s", "digits", type(first))
    assert (found.variants, found.phases, found.seeds) == (["RR3", "Std", "RR1"], ["A", "AB"], 4)
    assert found.a == first.a
    with pytest.raises(StudyError, match=r"a\.epochs: 3 there, 4 now"):
        open_study(tmp_path / "s", "digits", dataclasses.replace(first, a=dataclasses.replace(first.a, epochs=4)))
    with pytest.raises(StudyError, match="holds the study 'digits'"):
        reopen(tmp_path / "s", "cifar", type(first))


def test_a_folder_older_than_the_choice_of_phases_keeps_those_it_was_asked_for(tmp_path) -> None:
    config = preset("mutual-information")
    study = open_study(tmp_path / "s", "mutual-information", config)
    remember(study, config)
    content = json.loads((study.folder / "study.json").read_text())
    assert content.pop("phases") == ["A", "B", "AA", "AB"]
    (study.folder / "study.json").write_text(json.dumps(content))
    assert reopen(study.folder, "mutual-information", type(config))[1] == config
    remember(study, dataclasses.replace(config, phases=["A", "AB-head"]))
    assert study.metadata()["phases"] == ["A", "B", "AA", "AB", "AB-head"]


def test_a_folder_without_a_study_is_named(tmp_path) -> None:
    with pytest.raises(StudyError, match=r"study\.json does not exist"):
        reopen(tmp_path, "digits", type(preset("digits")))
