"""The registry of studies, their presets, and a new study that is a folder and one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from racecar.study import studies
from racecar.study.cli import main
from racecar.study.commands.study import parser, preset
from racecar.study.core.accelerator import reset_accelerator
from racecar.study.core.errors import StudyError

NEW = Path(__file__).parents[1] / "support" / "studies"


# --- presets ----------------------------------------------------------------------------------------------------------

# By study, preset and further options; settings left out are the defaults of the study's configuration.
PRESETS = {
    ("mutual-information", "paper"): {"seeds": 5, "snapshots": 40, "training.epochs": 2000, "training.epochs_b": 4000},
    ("mutual-information", "quick"): {
        "seeds": 2, "snapshots": 10, "training.epochs": 20, "training.epochs_b": 40, "training.remainder": "dropped",
    },
    ("digits", "paper"): {
        "variants": ["Std", "Ort", "RR3", "RR1", "Dec3", "StdC"], "seeds": 5, "weight": 1e-5, "train_images": None,
        "a.epochs": 100, "aa.epochs": 400, "ab.epochs": 700, "b.epochs": 700, "a.learning_rate": 1e-3,
        "aa.learning_rate": 1e-4, "ab.learning_rate": 1e-4, "b.learning_rate": 1e-4, "b.precision": "bfloat16",
    },
    ("digits", "small"): {
        "variants": ["Std", "Ort", "RR3", "RR1", "Dec3", "StdC"], "seeds": 5, "weight": 1e-5, "train_images": 10_000,
        "test_images": None, "evaluations": 6, "a.epochs": 10, "aa.epochs": 6, "ab.epochs": 6, "b.epochs": 12,
        "a.learning_rate": 1e-3, "aa.learning_rate": 5e-4, "ab.learning_rate": 5e-4, "b.learning_rate": 5e-4,
    },
    ("digits", "quick"): {
        "variants": ["Std", "Ort", "RR3"], "seeds": 2, "weight": 1e-5, "train_images": 2_000, "test_images": 1_000,
        "a.epochs": 2, "aa.epochs": 1, "ab.epochs": 1, "b.epochs": 2, "a.learning_rate": 1e-3,
    },
    ("digits", "full"): {
        "variants": ["Std", "Ort", "RR3", "StdC"], "seeds": 10, "weight": 1e-5, "train_images": None, "evaluations": 5,
        "a.epochs": 5, "aa.epochs": 2, "ab.epochs": 2, "b.epochs": 7, "a.learning_rate": 1e-3, "ab.learning_rate": 5e-4,
        "a.schedule": "cosine", "b.schedule": "cosine", "a.precision": "float32",
    },
    ("cifar", "paper"): {
        "variants": ["Std", "RR13", "RR13s", "RR1", "Ort", "Dec13", "StdC"], "seeds": 5, "weight": 1e-7,
        "compute_match": 2.0, "architecture": "table-11", "width": 64, "a.epochs": 180, "aa.epochs": 180,
        "ab.epochs": 50, "b.epochs": 50, "b.batch_size": 200, "ab.schedule": "steps", "b.milestones": (80, 120),
        "aa.optimiser": "sgd", "aa.learning_rate": 0.1, "b.precision": "bfloat16", "a.augmentation": "none",
    },
    ("cifar", "small"): {
        "variants": ["Std", "RR13", "RR13s", "RR1", "Ort", "Dec13", "StdC"], "seeds": 3, "weight": 1e-7, "width": 16,
        "train_images": 5_000, "test_images": 5_000, "evaluations": 8, "a.epochs": 8, "aa.epochs": 6, "ab.epochs": 4,
        "b.epochs": 4, "b.batch_size": 100, "ab.milestones": (4, 6), "architecture": "table-11",
    },
    ("cifar", "quick"): {
        "variants": ["Std", "RR13"], "seeds": 2, "width": 8, "train_images": 1_000, "test_images": 1_000,
        "a.epochs": 2, "aa.epochs": 1, "ab.epochs": 1, "b.epochs": 1, "a.batch_size": 50, "a.milestones": (1, 2),
    },
    ("cifar", "paper", "--recipe", "strong"): {
        "variants": ["Std", "RR7", "RR1", "Ort", "Dec7", "StdC"], "seeds": 5, "architecture": "strong", "weight": 1e-7,
        "phases": ["A", "B", "AA", "AB", "AB-probe", "AB-10pct", "AB-1pct", "B-10pct", "B-1pct"], "few_epochs": 60,
        "compute_match": 2.0, "a.epochs": 16, "aa.epochs": 16, "ab.epochs": 16, "b.epochs": 16, "b.batch_size": 128,
        "aa.schedule": "cosine", "ab.warmup": 0.2, "a.weight_decay": 5e-4, "b.label_smoothing": 0.1,
        "b.augmentation": "flip-crop", "a.optimiser": "sgd", "a.learning_rate": 0.1, "a.precision": "bfloat16",
    },
    ("cifar", "small", "--recipe", "strong"): {
        "variants": ["Std", "RR7"], "seeds": 3, "width": 32, "train_images": 10_000, "test_images": 5_000,
        "phases": ["A", "B", "AB", "AB-probe", "AB-10pct", "AB-1pct", "B-10pct", "B-1pct"], "few_epochs": 20,
        "evaluations": 5, "a.epochs": 6, "aa.epochs": 4, "ab.epochs": 4, "b.epochs": 6, "b.schedule": "cosine",
    },
    ("cifar", "quick", "--recipe", "strong"): {
        "variants": ["Std", "RR7"], "seeds": 2, "width": 8, "train_images": 1_000, "test_images": 1_000,
        "phases": ["A", "B", "AB", "AB-probe", "AB-10pct", "B-10pct"], "few_epochs": 2, "a.epochs": 2, "b.epochs": 1,
    },
    ("vgg", "paper"): {
        "variants": ["Std", "RR16"], "seeds": 1, "weight": 1e-10, "compute_match": 2.06, "evaluations": 36,
        "decoders": 12, "streamed": True, "size": 224, "pool": 7, "width": 64, "start.epochs": 6, "a.epochs": 36,
        "aa.epochs": 22, "start.batch_size": 64, "a.batch_size": 24, "aa.batch_size": 24, "start.schedule": "constant",
        "a.schedule": "steps", "start.milestones": (), "aa.milestones": (7, 10, 15), "a.learning_rate": 0.01,
        "start.optimiser": "sgd", "aa.weight_decay": 5e-4, "aa.precision": "bfloat16", "a.augmentation": "none",
    },
    ("vgg", "small"): {
        "seeds": 3, "weight": 1e-7, "streamed": False, "size": 32, "pool": 1, "width": 16, "decoders": 0,
        "train_images": 20_000, "test_images": 5_000, "evaluations": 12, "start.epochs": 8, "a.epochs": 12,
        "aa.epochs": 6, "a.learning_rate": 0.02, "aa.batch_size": 64, "start.schedule": "cosine",
        "a.augmentation": "flip-crop", "aa.weight_decay": 5e-4, "aa.milestones": (7, 10, 15), "start.milestones": (),
    },
    ("vgg", "quick"): {
        "seeds": 1, "weight": 1e-7, "width": 8, "train_images": 2_000, "test_images": 1_000, "evaluations": 2,
        "start.epochs": 2, "a.epochs": 1, "aa.epochs": 1, "streamed": False, "size": 32, "a.schedule": "cosine",
    },
    ("smoke", "paper"): {
        "variants": ["Std", "RR6", "StdC", "Dec6"], "seeds": 3, "steps_a": 10_000, "steps_b": 4_000, "width": 64,
        "phases": [
            "A", "B1", "B2", "AB1", "AB2", "AB1-early", "B1-leaky", "B2-leaky", "AB1-leaky", "AB2-leaky",
        ],
    },
    ("smoke", "small"): {
        "variants": ["Std", "RR6"], "seeds": 3, "width": 16, "discriminator_width": 4, "batch_size": 8,
        "steps_a": 1_500, "steps_b": 500, "learning_rate": 1e-3, "test_frames": 90, "capture_factor": 8,
        "evaluations": 12, "compute_match": 1.5,
        "phases": [
            "A", "B1", "B2", "AB1", "AB2", "AB1-early", "B1-leaky", "B2-leaky", "AB1-leaky", "AB2-leaky",
        ],
    },
    ("smoke", "quick"): {
        "seeds": 1, "phases": ["A", "B1", "B2", "AB1", "AB2"], "width": 8, "discriminator_width": 2, "batch_size": 8,
        "steps_a": 600, "steps_b": 100, "learning_rate": 1e-3, "test_frames": 36, "evaluations": 5,
    },
    ("stylize", "paper"): {"seeds": 1, "size": 512, "steps": 300},
    ("stylize", "small"): {"seeds": 3, "size": 192, "steps": 200},
    ("stylize", "quick"): {"seeds": 1, "size": 96, "steps": 40},
    ("transfer", "small"): {
        "pair": "mnist-parity", "variants": ["Std", "Proj", "Ort", "Pre", "Dec1", "RR1"], "seeds": 10,
        "phases": ["A-tuned", "B"], "tuned": {"Proj": 32, "Ort": 0.01, "Pre": 8, "Dec1": 0.3, "RR1": 1},
        "train_images": 20_000, "test_images": None, "a.epochs": 15, "b.epochs": 5, "a.schedule": "cosine",
    },
    ("transfer", "quick"): {"pair": "mnist-parity", "seeds": 1, "train_images": 1_000, "a.epochs": 2, "b.epochs": 1},
    ("transfer", "quick", "--pair", "cifar10-animals"): {
        "pair": "cifar10-animals", "seeds": 1, "width": 8, "train_images": 500, "a.precision": "bfloat16",
    },
    **{
        ("transfer", "full", "--pair", pair): {
            "pair": pair, "seeds": seeds, "train_images": 20_000, "phases": phases, "a.epochs": 15, "b.epochs": 5,
            "a.batch_size": 128, "a.optimiser": "adam", "a.learning_rate": 1e-3, "a.precision": "float32",
            "variants": [
                "Std", "StdC", "Early", "LS", "Proj", "Ort", "L2Init", "Pre", "RR1", "RR3", "RR3-layerwise", "Dec1",
                "Dec3",
            ],
        }
        for pair, seeds, phases in (
            ("mnist-halves", 3, ["A"]), ("mnist-parity", 10, ["A", "B"]), ("fashion-groups", 10, ["A", "B"]),
        )
    },
    ("transfer", "full", "--pair", "superposed-0.01"): {
        "pair": "superposed-0.01", "seeds": 5, "train_images": 20_000, "phases": ["A", "B"], "a.epochs": 15,
        "variants": ["Std", "Ort", "Dec1", "Dec1-white", "RR1", "RR1-white", "RR3"], "b.epochs": 5,
    },
    **{
        ("transfer", "full", "--pair", pair): {
            "pair": pair, "seeds": seeds, "train_images": 10_000, "phases": phases, "a.epochs": 12, "b.epochs": 4,
            "a.batch_size": 128, "a.optimiser": "sgd", "a.learning_rate": 0.1, "a.precision": "bfloat16", "width": 16,
            "a.augmentation": "flip-crop", "a.warmup": 0.2, "b.weight_decay": 5e-4, "test_images": 5_000,
        }
        for pair, seeds, phases in (
            ("cifar10-halves", 2, ["A"]), ("cifar10-animals", 5, ["A", "B"]), ("cifar100-superclasses", 5, ["A", "B"]),
        )
    },
    ("plasticity", "full"): {
        "sequence": "random-labels", "seeds": 10, "tasks": 50, "train_images": 1200, "test_images": 2000,
        "variants": ["Std", "Ort", "L2Init", "RR1", "RR3", "Dec1", "Dec3", "SP", "Reset"], "phases": ["A"],
        "batch_size": 60, "epochs": 80, "learning_rate": 5e-4, "frontier": 3,
    },
    ("plasticity", "small"): {
        "sequence": "random-labels", "seeds": 10, "tasks": 50, "train_images": 200, "test_images": 2000,
        "variants": ["Std", "Ort", "L2Init", "RR1", "RR3", "Dec1", "Dec3", "SP", "Reset"], "phases": ["A"],
        "batch_size": 40, "epochs": 25, "learning_rate": 2e-3, "frontier": 3,
    },
    ("plasticity", "quick"): {
        "sequence": "random-labels", "variants": ["Std", "RR3", "Dec3", "SP"], "seeds": 2, "tasks": 4, "epochs": 2,
        "train_images": 200, "test_images": 200, "phases": ["A"],
    },
}  # fmt: skip


def setting(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("which", PRESETS, ids=" ".join)
def test_a_preset_is_what_it_has_always_been(which) -> None:
    study, name, *more = which
    config = preset(study, "--preset", name, *more)
    assert {n: setting(config, n) for n in PRESETS[which]} == PRESETS[which]
    assert config.runs()


def test_every_preset_and_every_file_of_one_is_tested() -> None:
    named = {(study, name) for study in studies.registered() for name in studies.spec_of(study).presets}
    assert named == {which[:2] for which in PRESETS}
    files = [p for study in studies.registered() for p in studies.presets_of(study).glob("*.yaml")]
    assert len(files) == len(PRESETS)


@pytest.mark.parametrize(
    "argv", [["--preset", "small"], ["--preset=small"], ["--preset", "quick", "--preset", "small"]]
)
def test_a_configuration_file_wins_over_the_preset_and_options_over_both(tmp_path, argv) -> None:
    (tmp_path / "c.yaml").write_text("seeds: 9\na: {epochs: 77, milestones: [3, 9]}\n")
    config = preset("digits", "--config", str(tmp_path / "c.yaml"), "--a.epochs", "5", *argv)
    assert (config.seeds, config.a.epochs, config.a.milestones) == (9, 5, (3, 9))
    assert (config.train_images, config.aa.epochs, config.a.precision) == (10_000, 6, "bfloat16")


def test_a_configuration_file_may_name_the_preset(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("preset: small\nrecipe: strong\nseeds: 9\n")
    made = parser("cifar")
    options = made.parse_args(["--config", str(tmp_path / "c.yaml"), "--width", "8"])
    assert (options.seeds, options.width, options.few_epochs, options.a.epochs) == (9, 8, 20, 6)
    assert studies.spec_of("cifar").folder(options) == Path("runs/cifar-strong-small")


@pytest.mark.parametrize("argv", [["--help", "--preset", "small"], ["--preset=small", "--help"]])
def test_help_shows_the_values_of_the_preset(capsys, argv) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["study", "digits", *argv])
    assert stop.value.code == 0
    assert "default: 10000" in " ".join(capsys.readouterr().out.split())


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"there is a study 'digits' already, in racecar\.study\.digits\.spec"):
        studies.register("digits", "again")


def test_a_spec_is_that_of_its_name_and_an_unknown_one_says_what_there_is() -> None:
    for name in studies.registered():
        assert studies.spec_of(name).name == name
    with pytest.raises(StudyError, match="no study 'nothing'; there are mutual-information, digits"):
        studies.spec_of("nothing")


def test_a_copied_study_that_kept_its_name_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(studies, "_ENTRIES", dict(studies._ENTRIES))
    studies.register("letters", "EMNIST", "racecar.study.digits.spec")
    with pytest.raises(ValueError, match=r"digits\.spec holds the spec of 'digits', not of 'letters'"):
        studies.spec_of("letters")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "from racecar.study.cli import main; assert main(['--help']) == 0",
            [
                *("matplotlib", "scipy", "jsonargparse", "accelerate", "datasets"),
                *(f"racecar.study.{s}" for s in ("digits", "smoke")),
            ],
        ),
        (
            "from racecar.study.sweep import workers; from racecar.study.studies import spec_of; spec_of('digits')",
            ["matplotlib", "scipy", *(f"racecar.study.{s}" for s in ("cifar", "smoke", "vgg", "mutual_information"))],
        ),
    ],
    ids=["the list of commands", "a worker"],
)
def test_nothing_is_imported_before_it_is_needed(code, absent) -> None:
    said = f"import sys\n{code}\nprint('imported:', *({set(absent)!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "imported:"


# --- a new classification study: the folder tests/support/studies/rows, and one line ----------------------------------


@pytest.fixture
def rows(monkeypatch, tmp_path) -> Path:
    monkeypatch.syspath_prepend(NEW)
    monkeypatch.setattr(studies, "_ENTRIES", dict(studies._ENTRIES))
    monkeypatch.chdir(tmp_path)
    studies.register("rows", "which row is bright", "rows.spec")
    reset_accelerator()
    yield tmp_path
    reset_accelerator()


def finished(folder: Path) -> set[str]:
    return {p.parent.parent.name for p in folder.glob("runs/*/*/run.json")}


def test_a_new_study_is_trained_reported_and_grows(rows, capsys) -> None:
    assert main(["study", "rows", "--preset", "quick", "--workers", "1"]) == 0
    folder = rows / "runs" / "rows-quick"
    assert finished(folder) == {"Std_A", "RR2_A", "Std_AB", "RR2_AB"}
    content = json.loads((folder / "study.json").read_text())
    assert (content["experiment"], content["setting"], content["config"]["width"]) == (
        "rows",
        "paper recipe, quick preset",
        4,
    )
    assert main(["study", "rows", "--preset", "quick", "--workers", "1", "--variants", "Ort", "--a.epochs", "1"]) == 0
    assert "Ort_A" in finished(folder)
    assert main(["report", "runs", "--results", "results"]) == 0
    assert "four rows" in (rows / "results" / "rows-quick.md").read_text()
    assert "RR<sup>2</sup> outperforms Std after transfer to B" in (folder / "report.html").read_text()
    capsys.readouterr()


def test_a_new_study_is_trained_by_several_processes(rows) -> None:
    assert main(["study", "rows", "--preset", "quick", "--workers", "2", "--seeds", "2", "--out", "s"]) == 0
    assert len(list(rows.glob("s/runs/*/*/run.json"))) == 8


def test_a_new_study_is_swept(rows, capsys) -> None:
    argv = ["--preset", "quick", "--weights", "1e-3", "1e-2", "--workers", "1"]
    assert main(["sweep", "rows", *argv]) == 0
    out = rows / "runs" / "sweep-rows-quick"
    assert finished(out / "weight-0.001") == finished(out / "weight-0.01") == {"RR2_A", "RR2_AB"}
    assert finished(out / "without-weight") == {"Std_A", "Std_AB"}
    settings = [json.loads((out / f"weight-{w}" / "study.json").read_text())["config"]["weight"] for w in (0.001, 0.01)]
    assert settings == [0.001, 0.01]
    assert "best λ" in capsys.readouterr().out


def test_a_new_study_stands_in_the_lists_of_commands_and_of_sweeps(rows, capsys) -> None:
    assert main(["--help"]) == 0
    assert "racecar study rows " in capsys.readouterr().out
    assert main(["sweep"]) == 2
    assert "vgg, rows" in capsys.readouterr().err


def test_what_a_new_study_does_not_offer_is_one_clear_line(rows, monkeypatch, capsys) -> None:
    assert main(["study", "rows", "--variants", "RR3"]) == 2
    assert "RR3: the network of this study has 2 layers" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["study", "rows"]) == 2
    assert "start it plainly, without accelerate launch" in capsys.readouterr().err
    assert not (rows / "runs").exists()
