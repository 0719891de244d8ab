"""The command as a user runs it: a process of its own, killed, interrupted, resumed, misused."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

import racecar_command
from racecar.study.cli import main

# Batches of one size only, as each size is traced.
SHORT = ["--seeds", "1", "--snapshots", "2", "--training.remainder", "dropped"]
TINY = [*SHORT, "--training.epochs", "30", "--training.epochs_b", "30", "--workers", "1"]


def exit_code(*arguments: str) -> int:
    """In this process: what a user reads does not depend on that."""
    try:
        return main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    words = ["study", "mutual-information", "--out", "s", "--variants", "Std", "RR6", *TINY]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["racecar", *words])
        assert exit_code(*words) == 0
    *_, seen, where = said.getvalue().splitlines()
    assert seen.startswith("12-bit study (paper protocol): ")
    assert where == "report: s/report.html"
    return folder


@pytest.fixture
def done(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the finished study, where the test stands."""
    monkeypatch.chdir(trained)
    return trained


def test_the_report_shows_this_study_beside_the_paper(done: Path) -> None:
    html = (done / "s" / "report.html").read_text()
    accuracy = json.loads((done / "s" / "runs" / "RR6_AB" / "seed-0" / "run.json").read_text())["accuracy"]
    assert f"{accuracy:.3f}" in html
    for expected in ("0.997 ± 0.003", "0.1361", "RR<sup>6</sup><sub>AB</sub>", "Figure 4", "undecided"):
        assert expected in html
    assert html.count("<svg") >= 5
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_report_command_on_a_study_and_on_a_folder_of_studies(done: Path) -> None:
    (done / "s" / "report.html").unlink()
    for target in ("s", "."):
        assert exit_code("report", target) == 0
        assert (done / "s" / "report.html").exists()


def test_report_writes_results_with_their_command(done: Path) -> None:
    assert exit_code("report", "s", "--results", "out") == 0
    (table,) = (done / "out").glob("*.md")
    text = table.read_text()
    assert "racecar study mutual-information" in text
    assert "RR⁶_AB" in text
    assert "n = 1" in text


def test_a_report_is_named(done: Path, capsys) -> None:
    """So that two runs of one study stand beside each other."""
    assert exit_code("report", "s", "--results", "named", "--figures", "named", "--name", "s-again") == 0
    assert (done / "named" / "s-again.md").exists()
    assert all(p.name.startswith("s-again") for p in (done / "named").iterdir())
    capsys.readouterr()
    for words, said in (
        (["s", "s", "--results", "none", "--name", "x"], "one run alone, and here are 2"),
        (["s", "--name", "x"], "add --results FOLDER"),
        (["s", "--results", "none", "--name", "../x"], "use letters, digits"),
    ):
        assert exit_code("report", *words) == 2
        assert said in capsys.readouterr().err
    assert not (done / "none").exists()


def test_missing_runs_are_said_to_be_not_run(done: Path) -> None:
    run = done / "s" / "runs" / "RR6_AA" / "seed-0" / "run.json"
    content = run.read_bytes()
    run.unlink()
    try:
        assert exit_code("report", "s") == 0
        assert "not run" in (done / "s" / "report.html").read_text()
    finally:
        run.write_bytes(content)


def test_same_command_again_trains_nothing(done: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (done / "s" / "runs").rglob("*")}
    assert exit_code("study", "mutual-information", "--out", "s", "--variants", "Std", "RR6", *TINY) == 0
    assert {p: p.stat().st_mtime_ns for p in (done / "s" / "runs").rglob("*")} == before


def test_yaml_configuration_and_override(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "seeds: 1\nsnapshots: 2\nvariants: [Std]\ntraining: {epochs: 1, epochs_b: 1, weight: 0.5, remainder: dropped}\n"
    )
    words = ("--config", "c.yaml", "--training.weight", "0.25", "--out", "s")
    assert exit_code("study", "mutual-information", *words) == 0
    metadata = json.loads((tmp_path / "s" / "study.json").read_text())
    assert metadata["config"]["training"]["weight"] == 0.25
    assert metadata["config"]["training"]["epochs"] == 1
    assert metadata["variants"] == ["Std"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "mutual-information", "--out", "s", "--variants", "Std", "RR6", "--workers", "2", *SHORT,
                 "--training.epochs", "40", "--phases", "A", "AB"]  # fmt: skip
    command = [sys.executable, "-m", "racecar.study.cli", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + 120
    while not list((tmp_path / "s").glob("runs/*_A/*/run.json")):
        assert time.monotonic() < limit, "phase I took too long"
        time.sleep(0.01)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "the same command goes on from here" in errors
        assert "Traceback" not in errors
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).returncode == 0:
        assert time.monotonic() < limit, "training processes outlive their parent"
        time.sleep(0.1)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "runs").rglob("run.json")}
    assert not list((tmp_path / "s" / "runs").rglob(".*"))
    assert exit_code(*arguments, "--workers", "1") == 0, capsys.readouterr().err
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert len(list((tmp_path / "s" / "runs").rglob("run.json"))) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "mutual-information", "--sedes", "3"], "sedes"),
        (["study", "mutual-information", "--protocol", "mine"], "protocol"),
        (["study", "mutual-information", "--preset", "fast"], "preset"),
        (["study", "mutual-information", "--training.epochs", "many"], "epochs"),
        (["study", "mutual-information", "--variants", "RR9"], "6 layers"),
        (["study", "mutual-information", "--seeds", "0"], "seeds must be at least 1"),
        (["study", "mutual-information", "--workers", "0"], "workers must be at least 1"),
        (["study", "mutual-information", "--config", "missing.yaml"], "missing.yaml"),
        (["report", "nowhere"], "nowhere is not a folder"),
        (["report", "."], "holds no study"),
        (["explain", "resnet"], "is not a model"),
        (["explain", "no.such.module:Net"], "no.such.module"),
        (["explain", "torch.nn:Linear", "--input", "a"], "not a shape"),
        ([], "no command"),
        (["study", "mutual"], "no command 'study mutual'"),
        (["trian", "--data", "x"], "no command 'trian': is `racecar train` meant?"),
        (["studdy", "cifar"], "is `racecar study cifar` meant?"),
        (["digits"], "is `racecar study digits` meant?"),
        (["study"], "there are\n  racecar study mutual-information"),
        (["study", "cifar", "--prest", "small"], "is --preset meant?"),
        (["train", "--epoch", "3"], "is --epochs meant?"),
    ],
)
def test_misuse_is_one_clear_error(tmp_path: Path, monkeypatch, capsys, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_nothing_near_is_nothing_suggested(capsys) -> None:
    assert exit_code("frobnicate") == 2
    assert "meant" not in (said := capsys.readouterr().err)
    assert "racecar explain" in said
    assert exit_code("explain", "--frobnicate", "torch.nn:Linear") == 2
    assert "meant" not in capsys.readouterr().err


def test_the_lists_of_commands_need_no_torch() -> None:
    code = """
        import sys
        from racecar_command import main

        for words in (["--help"], ["--version"], ["study", "--help"], ["data", "-h"], [], ["study"], ["trian"]):
            sys.argv = ["racecar", *words]
            print(words, main())
        print("imported:", *({"torch", "racecar", "numpy"} & sys.modules.keys()))
    """
    child = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(child, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "imported:"
    codes = [0, 0, 0, 0, 2, 2, 2]
    assert [int(line[-1]) for line in said.stdout.splitlines() if line.startswith("[")] == codes
    assert "racecar study digits" in said.stdout
    assert "is `racecar train` meant?" in said.stderr


def test_what_the_process_answers_is_what_the_command_answers(monkeypatch, capsys) -> None:
    for words in (["--help"], ["study", "--help"], ["--version"]):
        monkeypatch.setattr(sys, "argv", ["racecar", *words])
        assert racecar_command.main() == 0
        first = capsys.readouterr().out
        assert exit_code(*words) == 0
        assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("words", "missing", "line"),
    [
        (["train", "--help"], ["jsonargparse"], '`racecar train` needs jsonargparse: pip install "X[study]"'),
        (["study", "digits"], ["rich", "scipy"], '`racecar study digits` needs rich and scipy: pip install "X[study]"'),
        (["data", "smoke"], ["phi"], '`racecar data smoke` needs phi: pip install "X[fluid]"'),
        (["explain", "timm:resnet18"], ["timm"], 'timm:resnet18 needs timm: pip install "X[vision]"'),
        (["explain", "torchvision:vgg"], ["torchvision"], 'torchvision:vgg needs torchvision: pip install "X[vision]"'),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line_that_says_how_to_install_it(monkeypatch, capsys, words, missing, line) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert exit_code(*words) == 2
    assert capsys.readouterr().err == f"racecar: {line}\n".replace("X[", "racecar-training[")


def test_what_python_cannot_import_says_the_extra_too(monkeypatch) -> None:
    import racecar.study

    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "racecar.study.pretrain.transferring", raising=False)
    monkeypatch.delitem(sys.modules, "racecar.study.core.accelerator", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r'study\.transfer needs accelerate: pip install "racecar-training\[st'
    ):
        _ = racecar.study.transfer


def test_the_extras_bring_the_modules_that_are_asked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    homes = packages_distributions()
    for extra, modules in racecar_command.EXTRAS.items():
        named = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"][extra]}
        brought = {homes.get(module, [module])[0].lower() for module in modules}
        assert brought == named - {"racecar-training"}, extra


def test_version(capsys) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith(f"racecar {version('racecar-training')}, torch ")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs to see what a process has loaded")
@pytest.mark.parametrize("library", ["libtorch_cpu", "_safetensors_rust"])  # of the first import, of a command's
def test_interrupted_in_its_first_seconds_it_ends_with_one_line(library: str) -> None:
    command = [sys.executable, "-m", "racecar_command", "train", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while library not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "racecar: interrupted\n")


def test_a_typo_in_yaml_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("training: {epoch: 3}\n")
    assert exit_code("study", "mutual-information", "--config", "c.yaml") == 2
    assert "'epoch'" in capsys.readouterr().err


def test_explain_prints_the_palindrome(capsys) -> None:
    net = "racecar.study.mutual_information.network:network"
    assert exit_code("explain", net, "--input", "12", "--layers", "2") == 0
    printed = capsys.readouterr().out
    for expected in ("fc1", "linear 12→10", "linear adjoint", "yes", "no"):
        assert expected in printed
