"""Whatever is wrong is one line that says what, where and what to do; nothing that was there is lost."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from racecar.study.core.files import read_tensors, write_json, write_tensors

from .conftest import write_images

OPTIONS = ("--epochs", "1", "--batch-size", "8", "--out", "out")


def rows(path: Path, labels: list, names: list[str] | None = None) -> None:
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("string" if "a" in labels else "int64")
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    images = [Image.new("RGB", (8, 8), (i, i, i)) for i in range(len(labels))]
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(path)


def empty(root: Path) -> None:
    (root / "train" / "cat").mkdir(parents=True)


def undecodable(root: Path) -> None:
    write_images(root, count=3)
    for name in ("2.png", "3.png"):
        (root / "train" / "dog" / name).write_bytes(b"\x89PNG\r\n\x1a\n broken")


def new_class(root: Path) -> None:
    write_images(root, count=3)
    (root / "test" / "yak").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "yak" / "0.png")


def new_word(root: Path) -> None:
    rows(root / "train.parquet", ["a", "b"] * 4)
    rows(root / "test.parquet", ["a", "yak"])


def outside(root: Path) -> None:
    rows(root / "train.parquet", [0, 1, 2] * 4)
    rows(root / "test.parquet", [0, 5, 7])


def negative(root: Path) -> None:
    rows(root / "train.parquet", [0, -1, 2] * 4)


def sizes(root: Path) -> None:
    write_images(root, count=3)
    Image.new("RGB", (9, 8)).save(root / "train" / "cat" / "wide.png")


def damaged(root: Path) -> None:
    root.mkdir()
    (root / "train.parquet").write_bytes(b"PAR1 and nothing more")


def fine(root: Path) -> None:
    write_images(root, count=3)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves a damaged parquet file open
@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (None, [], ["./data does not exist", "folder"]),
        (empty, [], ["data is empty", "one folder of images per class"]),
        (undecodable, [], ["2 of 10 images", "2.png", "3.png", "--skip-bad"]),
        (new_class, [], ["validation holds yak", "training has no image"]),
        (new_word, [], ["(test)", "yak", "training does not have"]),
        (outside, [], ["2 labels", "outside 0 to 2", "first is 5 in row 1"]),
        (negative, [], ["4 labels", "outside", "-1 in row 1"]),
        (sizes, [], ["differ in size", "--size"]),
        (damaged, [], ["cannot read the data set"]),
        (fine, ["--validation", "dev"], ["no split 'dev'", "train, test"]),
        (fine, ["--label-column", "species"], ["no column 'species'", "image, label"]),
        (fine, ["--racecar", "-1"], ["--racecar must not be negative"]),
        (fine, ["--epochs", "0"], ["epochs must be at least 1"]),
        (fine, ["--size", "0"], ["--size must be at least 1"]),
        (fine, ["--epoch", "2"], ["epoch"]),
        (fine, ["--model", "resnet18"], ["is not a model", "timm:NAME"]),
        (fine, ["--model", "small_nets:nothing"], ["small_nets:nothing"]),
        (fine, ["--model", "small_nets:net", "--model-options", "{depth: 3}"], ["small_nets:net", "depth"]),
        (fine, ["--model-options", "{num_classes: 5}"], ["returns shape (2, 5)", "3 classes", "--model-options"]),
        (fine, ["--channels", "1"], ["does not take images of 1 × 8 × 8", "--channels"]),
        (fine, ["--racecar", "1", "--layers", "nowhere"], ["nowhere"]),
        (fine, ["--model", "small_nets:Hungry"], ["out of memory on cpu with batches of 8", "--batch-size 4"]),
    ],
)  # fmt: skip
def test_train_says_what_is_wrong(tmp_path, command, make, options, words) -> None:
    if make is not None:
        make(tmp_path / "data")
    code, _, err = command("train", "--model", "small_nets:plain", "--data", "./data", *OPTIONS, *options)
    assert code == 2
    for word in words:
        assert word in err, err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_foreign_folder_is_not_written_into(tmp_path, command) -> None:
    fine(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code, _, err = command("train", "--model", "small_nets:plain", "--data", "data", *OPTIONS)
    assert code == 2
    assert "choose another --out" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_out_of_memory_keeps_what_was_saved(tmp_path, command, monkeypatch) -> None:
    import small_nets

    fine(tmp_path / "data")
    seen = []

    def forward(self: small_nets.Hungry, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        if len(seen) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)

    monkeypatch.setattr(small_nets.Hungry, "forward", forward)
    words = ("train", "--model", "small_nets:Hungry", "--data", "data", *OPTIONS, "--epochs", 9, "--batch-size", 2)
    code, _, err = command(*words, "--save-every", 0)
    assert code == 2
    assert "out of memory on cpu with batches of 2: try --batch-size 1" in err
    assert read_tensors(tmp_path / "out" / "progress-run.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change(**content: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "model.json"
        write_json(path, json.loads(path.read_text()) | content)

    return make


def halve(folder: Path) -> None:
    path = folder / "model.json"
    path.write_bytes(path.read_bytes()[:200])


def other_weights(folder: Path) -> None:
    write_tensors(folder / "model.safetensors", {"0.weight": torch.zeros(8, 3, 5, 5), "new": torch.zeros(1)})


def pickled(folder: Path) -> None:
    torch.save({"0.weight": torch.zeros(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (truncate, [], ["model.safetensors is truncated", "copy it again"]),
        (pickled, [], ["model.safetensors is truncated or no safetensors file"]),
        (lambda f: (f / "model.safetensors").unlink(), [], ["model.safetensors does not exist"]),
        (lambda f: (f / "model.json").unlink(), [], ["model.json does not exist", "racecar train"]),
        (halve, [], ["model.json cannot be read"]),
        (lambda f: write_json(f / "model.json", [1]), [], ["model.json does not describe a model"]),
        (change(input=3), [], ["model.json does not describe a model"]),
        (other_weights, [], ["another architecture", "0.bias is missing in the file", "small_nets:plain"]),
        (change(model="small_nets:net"), ["--model", "small_nets:net"], ["another architecture", "tensors differ"]),
        (lambda f: None, ["--model", "small_nets:net"], ["holds small_nets:plain, not small_nets:net"]),
        (change(model="timm:no-such-model"), ["--model", "timm:no-such-model"], ["timm"]),
        (lambda f: None, ["--from", "nowhere"], ["nowhere/model.json does not exist"]),
        (lambda f: None, ["--seeds", "0"], ["--seeds must be at least 1"]),
        (lambda f: None, ["--labels", "0"], ["--labels must be above 0"]),
        (lambda f: None, ["--data", "./missing"], ["./missing does not exist"]),
    ],
)  # fmt: skip
def test_transfer_says_what_is_wrong(tmp_path, command, spoil, options, words) -> None:
    fine(tmp_path / "data")
    trained = ("--epochs", "1", "--batch-size", "8")
    assert command("train", "--model", "small_nets:plain", "--data", "data", "--out", "a", *trained)[0] == 0
    spoil(tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").glob("*.*")}
    transfer = ("transfer", "--from", "a", "--model", "small_nets:plain", "--data", "data", *OPTIONS)
    code, _, err = command(*transfer, *options)
    assert code == 2
    for word in words:
        assert word in err, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert {p: p.read_bytes() for p in (tmp_path / "a").glob("*.*")} == before
    assert not (tmp_path / "out").exists()


def test_a_file_alone_makes_no_code_run(tmp_path, command) -> None:
    fine(tmp_path / "data")
    trained = ("--epochs", "1", "--batch-size", "8")
    assert command("train", "--model", "small_nets:plain", "--data", "data", "--out", "a", *trained)[0] == 0
    change(model="subprocess:call", options={"args": ["touch", "harm"]})(tmp_path / "a")
    code, _, err = command("transfer", "--from", "a", "--data", "data", *OPTIONS)
    assert code == 2
    assert "to run that code, repeat its name, --model subprocess:call" in err
    assert not (tmp_path / "harm").exists()


def test_no_last_layer(tmp_path, command) -> None:
    fine(tmp_path / "data")
    trained = ("--epochs", "1", "--batch-size", "8")
    assert command("train", "--model", "small_nets:headless", "--data", "data", "--out", "a", *trained)[0] == 0
    transfer = ("transfer", "--from", "a", "--model", "small_nets:headless", "--data", "data", *OPTIONS)
    code, _, err = command(*transfer)
    assert code == 2
    assert "no Linear or Conv2d with 3 outputs" in err
    assert "reset_classifier" in err
