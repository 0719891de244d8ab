"""``racecar study vgg`` and ``racecar study stylize`` as a user calls them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.cli import main
from racecar.study.core.accelerator import reset_accelerator
from racecar.study.core.files import read_tensors
from racecar.study.core.sole import sole_use
from racecar.study.report.results import ONE_SEED
from racecar.study.stylize.comparisons import FILES

TINY = [
    *("--preset", "quick", "--width", "4", "--train_images", "24", "--test_images", "12", "--workers", "1"),
    *("--start.epochs", "1", "--start.batch_size", "8", "--a.batch_size", "8", "--aa.batch_size", "8"),
]
MODELS = {"Std_A-start", "Std_A", "RR16_A", "Std_AA", "RR16_AA"}


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    reset_accelerator()
    yield
    reset_accelerator()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("cat", "dog", "owl")):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 150, (40, 36, 3))
                pixels[:, :, number] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    (root / "pictures").mkdir()
    for name in dict.fromkeys(sum(FILES.values(), ())):
        pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        pixels[10:30, 10:30] = (170, 80, 40)
        Image.fromarray(pixels).save(root / "pictures" / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    reset_accelerator()
    out = tmp_path_factory.mktemp("vgg") / "s"
    assert main(["study", "vgg", *TINY, "--data", str(data / "images"), "--out", str(out)]) == 0
    return out


def runs(folder: Path) -> set[str]:
    return {p.parent.parent.name for p in folder.glob("runs/*/*/run.json")}


def weights(folder: Path, model: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "runs" / model / "seed-0" / "model.safetensors")


def test_all_models_are_trained_and_reported(trained) -> None:
    assert runs(trained) == MODELS
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "RR<sup>16</sup><sub>AA</sub>" in page
    assert "36 images" not in page
    assert "24 training and 12 test images" in page


def test_both_variants_begin_with_the_one_start(data, tmp_path) -> None:
    """A learning rate of next to nothing leaves them where they begin."""
    argv = ["--a.learning_rate", "1e-30", "--a.weight_decay", "0", "--phases", "A-start", "A", "--weight", "1e-30"]
    assert main(["study", "vgg", *TINY, *argv, "--data", str(data / "images"), "--out", str(tmp_path / "s")]) == 0
    start = weights(tmp_path / "s", "Std_A-start")
    for model in ("Std_A", "RR16_A"):
        found = weights(tmp_path / "s", model)
        assert all(torch.allclose(found[k], v, rtol=0, atol=1e-20) for k, v in start.items())


def streamed(data: Path, out: Path, *more: str) -> list[str]:
    return ["study", "vgg", *TINY, "--streamed", "true", *more, "--data", str(data / "images"), "--out", str(out)]


def test_streamed_photographs_top_five_and_a_finished_study_is_left_alone(data, tmp_path, capsys) -> None:
    assert main(streamed(data, tmp_path / "s")) == 0
    assert runs(tmp_path / "s") == MODELS
    metrics = json.loads((tmp_path / "s/runs/RR16_A/seed-0/run.json").read_text())
    assert metrics["top5"] == 1  # of three classes
    assert metrics["accuracy"] <= 1
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "0.7324" in page  # the paper's, in a sentence: these are three classes, and not ImageNet
    assert "Not comparable" in page
    before = (tmp_path / "s/runs/RR16_AA/seed-0/model.safetensors").stat().st_mtime_ns
    reset_accelerator()
    assert main(streamed(data, tmp_path / "s")) == 0
    assert (tmp_path / "s/runs/RR16_AA/seed-0/model.safetensors").stat().st_mtime_ns == before
    # Other photographs than it began with are refused, and what is there stays.
    (tmp_path / "s/runs/RR16_AA/seed-0/run.json").unlink()
    other = [w if w != str(data / "images") else str(data / "images" / "train") for w in streamed(data, tmp_path / "s")]
    capsys.readouterr()
    reset_accelerator()
    assert main(other) == 2
    assert "are not those that" in capsys.readouterr().err
    reset_accelerator()
    assert main(streamed(data, tmp_path / "s")) == 0  # it still knows the right ones


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "./nowhere"], "./nowhere does not exist"),
        (["--size", "16"], "size must be at least 32"),
        (["--crop", "[0.9, 0.1]"], "crop must be two shares between 0 and 1"),
        (["--dropout", "1"], "dropout must be at least 0"),
        (["--phases", "A-start", "A", "AB"], "no phase 'AB' in this study"),
        (["--shard"], "start them by accelerate launch or torchrun"),
        (["--variants", "RR17"], "RR17: the network of this study has 16 layers"),
    ],
)
def test_bad_input_is_one_clear_line(data, tmp_path, capsys, more, said) -> None:
    assert main(["study", "vgg", *TINY, "--data", str(data / "images"), "--out", str(tmp_path / "s"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def call(*argv: str) -> list[str]:
    return [sys.executable, "-m", "racecar.study.cli", *argv]


HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_weights(data, tmp_path) -> None:
    argv = ("--phases", "A-start", "A", "--start.epochs", "2", "--a.epochs", "4")
    argv += ("--start.learning_rate", "1e-3", "--a.learning_rate", "1e-3")
    assert main(streamed(data, tmp_path / "whole", *argv)) == 0
    again = streamed(data, tmp_path / "killed", *argv)
    process = subprocess.Popen(call(*again), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not runs(tmp_path / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert "Std_A-start" in runs(tmp_path / "killed") < {"Std_A-start", "Std_A", "RR16_A"}
    reset_accelerator()
    assert main(again) == 0
    for model in ("Std_A-start", "Std_A", "RR16_A"):
        one, other = (weights(tmp_path / f, model) for f in ("whole", "killed"))
        assert all(torch.equal(one[k], v) for k, v in other.items()), model


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    try:
        own = [int(word) for t in Path(f"/proc/{pid}/task").iterdir() for word in (t / "children").read_text().split()]
    except OSError:  # gone meanwhile
        return []
    return own + [later for child in own for later in descendants(child)]


def ignores_sigterm(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        tracker = "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text()  # Python's own, which ignores it too
    except OSError:
        return False
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return not tracker and bool(ignored >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_decoders_alive_until_the_state_is_saved(data, tmp_path) -> None:
    argv = ("--phases", "A-start", "--start.epochs", "4000", "--decoders", "1", "--variants", "Std")
    process = subprocess.Popen(
        call(*streamed(data, tmp_path / "s", *argv)), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not any(map(ignores_sigterm, descendants(process.pid))) and time.monotonic() < deadline:
        time.sleep(0.02)  # until the decoder has started
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped; what is done is kept" in error
    assert list((tmp_path / "s").glob("progress-*"))


@pytest.fixture(scope="module")
def launched(data, tmp_path_factory) -> Path:
    """The same training by one process, by two, and by two that share the weights, stopped and started again.

    Without dropout, whose masks belong to the process.
    """
    folder = tmp_path_factory.mktemp("launched")
    argv = ("--phases", "A-start", "A", "--dropout", "0", "--variants", "RR16", "--weight", "1e-3", "--a.epochs", "6")
    argv += ("--start.precision", "float32", "--a.precision", "float32", "--a.learning_rate", "1e-3")
    reset_accelerator()
    assert main(streamed(data, folder / "one", *argv)) == 0
    # Signals are looked for every 16 steps, of which phase A has 18.
    two, shard = streamed(data, folder / "two", *argv), streamed(data, folder / "shard", *argv, "--shard")
    calls = [{"words": two, "stopped": False}, *({"words": shard, "stopped": stopped} for stopped in (True, False))]
    paths = [str(HERE.parents[1] / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, str(HERE / "launched.py"), json.dumps(calls)], cwd=folder, capture_output=True, text=True,
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}, timeout=300,
    )  # fmt: skip
    said = "\n".join(f"{p.relative_to(folder)}:\n{p.read_text()[-3000:]}" for p in folder.glob("*/rank*.txt"))
    assert result.returncode == 0, result.stderr + said
    assert json.loads(result.stdout) == [[0, 0], [130, 130], [0, 0]], said
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "atol"), [("two", 1e-5), ("shard", 1e-4)])
def test_two_processes_train_what_one_trains(launched, processes, atol) -> None:
    for model in ("Std_A-start", "RR16_A"):
        one, two = (weights(launched / f, model) for f in ("one", processes))
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=atol, rtol=1e-3, msg=lambda m: f"{model} {name}: {m}")  # noqa: B023


@pytest.mark.slow
def test_one_of_two_processes_speaks(launched) -> None:
    said = [[(launched / str(call) / f"rank{rank}.txt").read_text() for rank in range(2)] for call in range(3)]
    assert [[text.count("report:") for text in ranks] for ranks in said] == [[1, 0], [0, 0], [1, 0]]
    assert "stopped; what is done is kept" in said[1][0]


# --- stylization as a study -------------------------------------------------------------------------------------------

SEEN = ["--preset", "quick", "--size", "40", "--steps", "3", "--factor", "2", "--workers", "1"]


def seen(data: Path, trained: Path, out: Path, *more: str) -> list[str]:
    return ["study", "stylize", *SEEN, "--vgg", str(trained), "--out", str(out), *more]


def test_every_comparison_of_both_networks_with_numbers_and_sheets(data, trained, tmp_path, capsys) -> None:
    out = tmp_path / "s"
    judge = str(trained / "runs" / "Std_A-start" / "seed-0")
    argv = ["--pictures", str(data / "pictures"), "--judge", judge]
    assert main(seen(data, trained, out)) == 0  # without pictures: the shapes
    assert runs(out) == {"Std_A-shapes", "RR16_A-shapes"}
    assert main(seen(data, trained, out, *argv)) == 0
    assert len(runs(out)) == 8
    metrics = json.loads((out / "runs/RR16_A-detail/seed-0/run.json").read_text())
    assert {"psnr", "dssim", "judge", "low_psnr"} <= metrics.keys()
    assert [p["name"] for p in metrics["pictures"]] == ["golden_gate", "tubingen"]
    assert (out / "runs/RR16_A-detail/seed-0/golden_gate.png").exists()
    assert not list(out.glob("progress-*"))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("Contact sheet") == 4
    assert main(["report", str(out), "--results", str(tmp_path / "results")]) == 0
    text = (tmp_path / "results" / "stylize-quick.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert ONE_SEED in text  # and no verdict
    for comparison in ("shapes", "building", "horse", "detail"):
        assert f"stylize-quick-{comparison}.jpg" in text
        assert (tmp_path / "results" / f"stylize-quick-{comparison}.jpg").stat().st_size > 1000
    capsys.readouterr()


def test_interrupted_inside_a_picture_it_ends_with_the_same_ones(data, trained, tmp_path) -> None:
    from racecar.study.core.callbacks import Callbacks
    from racecar.study.stylize import experiment
    from racecar.study.stylize.spec import SPEC

    config = experiment.StylizeConfig(phases=["shapes", "building"], size=40, steps=5, factor=2)
    sources = experiment.Sources(trained, data / "pictures", None)
    found = {}
    for name, every in (("whole", 10**9), ("stopped", 3)):
        study = SPEC.open(tmp_path / name, config)
        told: list[int] = []
        for _ in range(100):
            count = 0

            def stop(every: int = every) -> bool:
                nonlocal count
                count += 1
                return count >= every

            if experiment.run_share(study, config, sources, config.runs(), Callbacks(told.append, stop=stop)):
                break
        assert sum(told) == sum(experiment.cost(config, r) for r in config.runs())
        found[name] = {p.relative_to(study.folder): p.read_bytes() for p in study.folder.glob("runs/*/*/*.png")}
    assert len(found["whole"]) == 10
    assert found["whole"] == found["stopped"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seeds", "2"], "2 networks are not trained, the first is"),
        (["--variants", "RR3"], "1 networks are not trained"),
        (["--pictures", "{trained}"], "has no picture tubingen"),
        (["--judge", "nowhere"], "nowhere is not a network"),
        (["--phases", "trees"], "no comparison 'trees': use shapes, building, horse, detail"),
        (["--phases", "horse"], "the comparison 'horse' needs pictures: give their folder with --pictures"),
        (["--pictures", "{data}/pictures", "--factor", "100"], "too small for a factor of 100"),
        (["--factor", "1"], "factor must be at least 2"),
        (["--size", "8"], "too small for conv5_1"),
    ],
)
def test_what_the_study_cannot_do_is_one_clear_line(data, trained, tmp_path, capsys, more, said) -> None:
    argv = [m.format(trained=trained, data=data) for m in more]
    assert main(seen(data, trained, tmp_path / "s", *argv)) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert "Traceback" not in error


def test_another_judge_or_network_than_before_is_refused_and_a_late_one_measures_all(
    data, trained, tmp_path, capsys
) -> None:
    out, pictures = tmp_path / "s", ["--pictures", str(data / "pictures"), "--phases", "horse"]
    judges = [str(trained / "runs" / m / "seed-0") for m in ("Std_A-start", "Std_A")]
    assert main(seen(data, trained, out, *pictures)) == 0
    path = out / "runs/RR16_A-horse/seed-0/run.json"
    assert "judge_style" not in json.loads(path.read_text())
    assert main(seen(data, trained, out, *pictures, "--judge", judges[0])) == 0
    assert json.loads(path.read_text())["judge_style"] > 0
    capsys.readouterr()
    assert main(seen(data, trained, out, *pictures, "--judge", judges[1])) == 2
    assert "judge: not what" in capsys.readouterr().err


# --- one picture ------------------------------------------------------------------------------------------------------


def one(data: Path, trained: Path, *more: str) -> list[str]:
    pictures = data / "pictures"
    argv = ["--content", str(pictures / "horse.png"), "--style", str(pictures / "zebra.png"), "--size", "40"]
    return ["stylize", *argv, "--network", str(trained / "runs" / "RR16_A" / "seed-0"), *more]


def test_a_picture_is_written_and_its_losses_printed(data, trained, tmp_path, capsys) -> None:
    out = tmp_path / "x.png"
    assert main(one(data, trained, "--steps", "3", "--out", str(out), "--style-only")) == 0
    with Image.open(out) as picture:
        assert (picture.size, picture.format) == ((40, 40), "PNG")
    said = capsys.readouterr().out
    assert "L_content (Eq. 3): 0 → 0" in said
    assert "L_style (Eq. 4)" in said
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_a_picture_that_is_being_made_is_not_made_twice(data, trained, tmp_path, capsys) -> None:
    with sole_use(tmp_path, "making x.png", ".x.png.lock"):
        assert main(one(data, trained, "--steps", "3", "--out", str(tmp_path / "x.png"))) == 2
    assert f"is making {tmp_path / 'x.png'}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_stylization_goes_on_to_the_same_picture(data, trained, tmp_path) -> None:
    argv = ("--steps", "60", "--save-every", "0", "--preview", "0", "--start", "noise")
    assert main(one(data, trained, *argv, "--out", str(tmp_path / "whole.png"))) == 0
    command = call(*one(data, trained, *argv, "--out", str(tmp_path / "killed.png")))
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".killed.png.state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert (tmp_path / "killed.png").exists()  # the preview
    assert main(command[3:]) == 0
    assert (tmp_path / "killed.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--content", "{data}/images"], "is a folder: give an image"),
        (["--style", "nowhere.png"], "nowhere.png does not exist"),
        (["--content", "{trained}/study.json"], "is not an image that can be read"),
        (["--network", "torchvision:nothing"], "torchvision"),
        (["--style-layers", "conv1_1", "conv7_1"], "the network has no layer conv7_1; it has conv1_1"),
        (["--style-layers", "classifier.3"], "classifier.3 has no filters at positions"),
        (["--size", "9"], "a picture of 9 × 9 pixels is too small for conv5_1: both sides must be at least 16"),
        (["--size", "0"], "--size must be at least 1"),
        (["--out", "x.jpg"], "--out must be a .png file"),
        (["--style-weight", "-1"], "style_weight must not be negative"),
    ],
)
def test_what_cannot_be_stylized_is_one_clear_line(data, trained, tmp_path, capsys, monkeypatch, more, said) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [m.format(data=data, trained=trained) for m in more]
    assert main(one(data, trained, *argv)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("racecar: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
