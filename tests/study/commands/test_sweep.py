"""``racecar sweep`` as a user runs it: two at once, workers and commands killed, resumed, through submitit, misused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from racecar.study.cli import main

TINY = [
    *["mutual-information", "--preset", "quick", "--variants", "Std", "RR1", "--seeds", "2", "--snapshots", "2"],
    *["--training.epochs", "20", "--training.epochs_b", "10", "--weights", "1e-3", "1e-2"],
]
TASKS = {"weight-0.001-RR1_A-seed-0", "weight-0.01-RR1_A-seed-0", "without-weight-Std_A-seed-0"}


def sweep(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "racecar.study.cli", "sweep", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def here(*arguments: str) -> int:
    """The command in this process, which starts sooner."""
    return main(["sweep", *arguments])


def until(true: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    limit = time.monotonic() + 120
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)


def claims(folder: Path) -> dict[str, int]:
    """How often each task was claimed."""
    return {p.name: len(list(p.iterdir())) for p in (folder / "claims").iterdir() if p.name != "preparing"}


def held(folder: Path) -> dict[str, int]:
    """The process that holds a task."""
    found = {}
    for name in TASKS:
        for path in sorted((folder / "claims" / name).glob("*"))[-1:]:
            content = json.loads(path.read_text() or "{}")
            if content.get("state") == "held":
                found[name] = content["process"]
    return found


def weights(folder: Path) -> dict[str, dict]:
    return {str(p.relative_to(folder)): load_file(p) for p in sorted(folder.glob("*/runs/*/*/model.safetensors"))}


def assert_same(folder: Path, expected: Path) -> None:
    found, known = weights(folder), weights(expected)
    assert found.keys() == known.keys()
    for run, tensors in known.items():
        for name, value in tensors.items():
            assert value.equal(found[run][name]), (run, name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The same command twice at once, as on two machines that share a folder."""
    root = tmp_path_factory.mktemp("sweep")
    other = sweep(*TINY, "--workers", "1", "--out", "whole", cwd=root)
    assert here(*TINY, "--workers", "1", "--out", str(root / "whole")) == 0
    code, out, err = ended(other)
    assert code == 0, err
    assert "best λ" in out
    return root / "whole"


def test_two_commands_at_once_train_every_run_and_none_twice(whole) -> None:
    assert claims(whole) == dict.fromkeys(TASKS, 1)
    runs = {str(p.parent.relative_to(whole)) for p in whole.glob("*/runs/*/*/run.json")}
    plain = {f"without-weight/runs/Std_{p}/seed-{s}" for p in ("A", "B", "AA", "AB") for s in (0, 1)}
    swept = {f"weight-{w}/runs/RR1_{p}/seed-{s}" for w in (0.001, 0.01) for p in ("A", "AA", "AB") for s in (0, 1)}
    assert runs == plain | swept
    settings = {w: json.loads((whole / f"weight-{w}" / "study.json").read_text()) for w in (0.001, 0.01)}
    assert all(s["seconds"] > 0 for s in settings.values())
    assert {w: s["config"]["training"]["weight"] for w, s in settings.items()} == {0.001: 0.001, 0.01: 0.01}


def test_the_table_is_on_disk_and_can_be_shown_again(whole, capsys) -> None:
    written = (whole / "sweep.md").read_text()
    assert written.count("| RR¹ |") == 3
    (whole / "sweep.md").unlink()
    assert main(["sweep", *TINY, "--out", str(whole), "--table", "--criterion", "A"]) == 0
    assert "in phase A over seeds (n = 2)" in capsys.readouterr().out
    assert "| variant | best λ | A |" in (whole / "sweep.md").read_text()


def test_killed_workers_and_a_killed_command_lose_nothing_finished(whole) -> None:
    folder = whole.with_name("killed")
    process = sweep(*TINY, "--workers", "1", "--out", "killed", cwd=whole.parent)
    until(lambda: held(folder), process)
    (task, worker), *_ = held(folder).items()
    time.sleep(0.2)
    os.kill(worker, signal.SIGKILL)
    until(lambda: claims(folder)[task] == 2, process)  # another worker of the same command has taken it over
    until(lambda: list(folder.glob("*/runs/*/*/run.json")) and held(folder).keys() - {task}, process)
    time.sleep(0.2)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/runs/*/*/run.json")}
    for number in (process.pid, *held(folder).values()):
        os.kill(number, signal.SIGKILL)
    _, _, err = ended(process)
    assert "a worker was killed" in err
    assert len(before) < 20

    assert here(*TINY, "--workers", "1", "--out", str(folder)) == 0
    assert sum(claims(folder).values()) > 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same(folder, whole)


def test_interrupted_it_says_so_and_leaves_no_claim_behind(whole) -> None:
    folder = whole.with_name("stopped")
    process = sweep(*TINY, "--workers", "1", "--out", "stopped", cwd=whole.parent)
    until(lambda: held(folder), process)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130, err
    assert "stopped; what is done is kept" in err
    assert "no λ has all seeds yet" in " ".join(out.split())
    assert held(folder) == {}


def test_submitits_own_processes_end_with_the_same_weights(whole) -> None:
    pytest.importorskip("submitit")
    folder = whole.with_name("submitted")
    arguments = [*TINY, "--workers", "1", "--out", str(folder), "--engine", "submitit-local"]
    with ThreadPoolExecutor() as pool:
        command = pool.submit(here, *arguments, "--slurm", '{"timeout_min": 5}')
        until(lambda: command.done() or held(folder))
        time.sleep(0.2)
        number = next(iter(held(folder).values()))
        os.kill(number, signal.SIGUSR2)  # as SLURM does before a time limit: the job is queued again, and goes on
        assert command.result(240) == 0
    assert max(claims(folder).values()) == 2
    assert here(*arguments) == 0  # with jobs of before
    assert "Requeued" in "".join(p.read_text() for p in (folder / "jobs").glob("*_log.*"))
    assert_same(folder, whole)


def test_more_lambda_and_seeds_may_follow_and_nothing_is_redone(whole) -> None:
    folder = whole.with_name("grown")
    few = ["--training.epochs", "2", "--training.epochs_b", "2", "--workers", "1", "--out", str(folder)]
    assert here(*TINY, *few, "--seeds", "1", "--variants", "RR1", "--weights", "1e-3") == 0
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/runs/*/*/run.json")}
    assert len(before) == 3
    started = time.monotonic()
    assert here(*TINY, *few, "--variants", "RR1") == 0
    assert time.monotonic() - started < 100  # less than a lease
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(folder.glob("*/runs/*/*/run.json"))) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name what to sweep: mutual-information, digits, cifar, vgg"),
        (["smoke"], "no sweep of 'smoke'"),
        (["digits"], "--weights is missing"),
        (["digits", "--weights", "-1e-5"], "not negative, not -1e-05"),
        (["digits", "--weights", "1e-5", "inf"], "must be finite"),
        (["digits", "--weights", "1e-5", "--weight", "1e-4"], "no single λ"),
        (["digits", "--weights", "1e-5", "--variants", "Std"], "none of Std has a λ"),
        (["digits", "--weights", "1e-5", "--variants", "RR3", "Std", "--phases", "B"], "phases B depends on λ: add A"),
        (["digits", "--weights", "1e-5", "--variants", "RR4"], "this study has 3 layers"),
        (["digits", "--weights", "1e-5", "--workers", "0"], "--workers must be at least 1"),
        (["digits", "--weights", "1e-5", "--data", "empty"], "empty/mnist is empty"),
        (["digits", "--table"], "sweep.json does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "mnist").mkdir(parents=True)
    assert main(["sweep", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_an_engine_that_is_not_here_is_one_clear_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "submitit", None)
        assert main(["sweep", *TINY, "--engine", "slurm"]) == 2
    assert 'this engine needs submitit: pip install "racecar-training[sweep]"' in capsys.readouterr().err
    monkeypatch.setattr("racecar_command.find_spec", lambda name: name)
    assert main(["sweep", *TINY, "--engine", "slurm"]) == 2
    assert "no SLURM here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_a_sweep_is_trained_by_the_sweep_alone(tmp_path, capsys) -> None:
    (tmp_path / "sweep.json").touch()
    assert main(["study", "mutual-information", "--preset", "quick", "--out", str(tmp_path / "weight-0.001")]) == 2
    assert "weight-0.001 is a part of a sweep" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.json"]


def test_a_copy_among_the_claims_is_named_and_a_file_in_their_place_is_one_line(tmp_path, capsys) -> None:
    (tmp_path / "claims" / "job").mkdir(parents=True)
    (tmp_path / "claims" / "job" / "0 (conflicted copy)").touch()
    (tmp_path / "claims" / "preparing").touch()
    assert main(["sweep", *TINY, "--out", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "job/0 (conflicted copy) is no claim and is skipped; if" in first
    assert "claims/preparing cannot be made a folder for claims" in second


def test_another_sweeps_or_studys_folder_is_refused(whole, capsys) -> None:
    assert main(["sweep", *TINY, "--training.epochs", "9", "--out", str(whole)]) == 2
    assert "training.epochs: 20 there, 9 now" in capsys.readouterr().err
    assert main(["sweep", *TINY, "--out", str(whole / "weight-0.001")]) == 2
    assert "holds no sweep" in capsys.readouterr().err
