"""``racecar evaluate``: numbers as scikit-learn has them, and of which images."""

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, precision_score, recall_score

from racecar.study import Recipe, Source, StudyError, evaluate, train, transfer

from ..pretrain.conftest import write_images
from .conftest import NET


def answers(folder: Path, network: torch.nn.Module, root: Path) -> tuple[np.ndarray, list[str]]:
    """Probabilities and classes of the images below a folder, by hand."""
    about = json.loads((folder / "model.json").read_text())
    mean, std = (np.array(about["input"][k], np.float32) for k in ("mean", "std"))
    files = sorted(root.glob("*/*.png"))
    pixels = np.stack([(np.array(Image.open(f), np.float32) / 255 - mean) / std for f in files])
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).double().softmax(1).numpy()
    return found, [f.parent.name for f in files]


def test_the_numbers_are_scikit_learns(trained, command, tmp_path) -> None:
    # Harder than what it was trained on, and one class is not there.
    write_images(tmp_path / "hard", classes=("cat", "dog"), splits=("test",), count=20, seed=5, apart=25)
    root = tmp_path / "hard" / "test"
    code, out, err = command(
        "evaluate", "--from", "a", "--model", NET, "--data", root, "--json", "e.json", "--figure", "e.png"
    )
    assert code == 0, err
    found = json.loads(Path("e.json").read_text())
    classes = ["cat", "dog", "owl"]
    shares, names = answers(Path("a"), trained.load(NET), root)
    truth, answered = [classes.index(n) for n in names], shares.argmax(1)
    assert found["images"] == 40
    assert found["confusion"] == confusion_matrix(truth, answered, labels=range(3)).tolist()
    assert 0.3 < found["top1"] < 1
    assert found["top1"] == np.mean(answered == truth)
    assert found["top5"] == 1
    assert found["cross_entropy"] == pytest.approx(log_loss(truth, shares, labels=range(3)), rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers that are no class of these images
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answered))
    options = {"labels": range(3), "average": None, "zero_division": np.nan}
    for number, (own, recall, precision) in enumerate(
        zip(found["classes"], recall_score(truth, answered, **options), precision_score(truth, answered, **options),
            strict=True)
    ):  # fmt: skip
        assert own["name"] == classes[number]
        for key, value in (("recall", recall), ("precision", precision)):
            assert (own[key] is None) == math.isnan(value)
            assert own[key] is None or own[key] == pytest.approx(value)
    assert found["classes"][2]["images"] == 0
    low, high = found["top1_interval"]
    for end in (low, high):  # Wilson: the ends are the shares that lie 1.96 of their own deviations away
        assert abs(found["top1"] - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 40))
    assert f"{found['top1']:.4f}" in out
    assert "all images of" in out
    assert Path("e.png").read_bytes()[:4] == b"\x89PNG"


def test_without_data_it_is_what_training_measured(trained, command) -> None:
    found = evaluate(trained, model=NET)
    assert found.top(1) == pytest.approx(trained.accuracy)
    assert found.words == "split test of data, as in training"
    assert len(found.names) == len(found.labels) == 27
    assert all(Path(n).exists() for n in found.names)
    shutil.rmtree("data/test/cat")
    code, _, err = command("evaluate", "--from", "a", "--model", NET)
    assert code == 2
    assert "the images of data are not those that a was measured on: give others by --data" in err
    code, _, err = command("evaluate", "--from", "a", "--model", NET, "--data", "data")
    assert code == 0, err


def test_of_its_own_data_it_takes_what_was_held_out(tmp_path) -> None:
    write_images(tmp_path / "all", splits=("",), count=20)
    run = train(NET, "all", out="h", recipe=Recipe(epochs=1, batch_size=8))
    for found in (evaluate(run, model=NET), evaluate(run, "all", model=NET)):
        assert found.words == "held out of the training: a tenth, stratified"
        assert len(found.labels) == run.about["validation_images"] == 6
        assert found.top(1) == pytest.approx(run.accuracy)
    # One image less, and it is another data set: all of it, which is said.
    Path("all/cat/0.png").unlink()
    found = evaluate(run, "all", model=NET)
    assert found.words == "all images of all"
    assert len(found.labels) == 59


def test_a_transfers_training_and_its_folder(trained, tmp_path, command) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), seed=1)
    done = transfer(trained, "other", model=NET, out="t", probe=False, recipe=Recipe(epochs=1, batch_size=8))
    assert evaluate(done.pretrained[0], model=NET).top(1) == pytest.approx(done.accuracy["p_AB"][0])
    with pytest.raises(StudyError, match="t holds the trainings of a transfer: give one of them, t/pretrained-0"):
        evaluate("t", model=NET)


def test_classes_it_does_not_know_and_code_that_was_not_named(trained, tmp_path, command) -> None:
    write_images(tmp_path / "other", classes=("cat", "newt"), splits=("test",), seed=1)
    with pytest.raises(StudyError, match="holds newt, which the network does not know"):
        evaluate(trained, tmp_path / "other" / "test", model=NET)
    with pytest.raises(StudyError, match="repeat its name, --model small_nets:net"):
        evaluate(trained)
    with pytest.raises(StudyError, match="has no split 'val', only"):
        evaluate(trained, Source("data", validation="val"), model=NET)
    found = evaluate(trained, Source("data", validation="train"), model=NET)
    assert found.words == "split train of data"


def test_a_run_of_before_and_files_that_do_not_decode(trained, command) -> None:
    # Earlier versions kept nothing of the data in model.json.
    about = json.loads(Path("a/model.json").read_text())
    del about["data"]
    Path("a/model.json").write_text(json.dumps(about))
    assert evaluate(trained, "data", model=NET).top(1) == pytest.approx(trained.accuracy)
    Path("data/test/cat/bad.png").write_bytes(b"none")
    code, _, err = command("evaluate", "--from", "a", "--model", NET, "--data", "data")
    assert code == 2
    assert "1 of 28 images in data (test) do not decode" in err
    code, out, err = command("evaluate", "--from", "a", "--model", NET, "--data", "data", "--skip-bad")
    assert code == 0, err
    assert "left out 1 images" in err
    assert "27 images" in out
