"""What `racecar train` and `transfer` say of the data they found, on the screen and in the files they write."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .conftest import write_images

TRAIN = ("train", "--model", "small_nets:net", "--epochs", 1, "--batch-size", 8)


def about(folder: str) -> dict:
    return json.loads(Path(folder, "model.json").read_text())["data"]


def test_train_and_transfer_say_what_they_found(tmp_path, command) -> None:
    write_images(tmp_path / "data", classes=("cat", "dog", "a\nb"), splits=("",), count=10)
    (tmp_path / "data" / "notes.txt").write_text("?")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "data" / "cat" / "deep.png")
    code, _, err = command(*TRAIN, "--data", "data", "--out", "a")
    assert code == 0, err
    (line,) = (s for s in err.splitlines() if s.startswith("data: "))
    assert line == f"data: {about('a')['said']}"
    assert about("a")["said"] == (
        "train 28 / validation 3 (held out: a tenth, stratified) · 3 classes: a\\nb 10, cat 11, dog 10 · left out: 1 "
        ".txt · 1 of 16 bits, scaled from 0 to 65535 · 1 grey image, read as colour"
    )
    assert about("a")["train"] == {"images": 28, "classes": {"a\nb": 9, "cat": 10, "dog": 9}, "split": "train"}
    assert about("a")["decoding"]["ranges"] == {"uint16": [0, 65535]}
    transfer = ("transfer", "--from", "a", "--model", "small_nets:net", "--data", "data", "--out", "b", "--no-probe")
    code, _, err = command(*transfer, "--epochs", 1, "--batch-size", 8, "--labels", 0.5)
    assert code == 0, err
    assert line in err
    assert about("b/pretrained-0") | {"decoding": {}} == about("a") | {"decoding": {}}


def test_labels_from_a_file_for_both(tmp_path, command) -> None:
    write_images(tmp_path / "data", classes=("all",), splits=("",), count=12)
    rows = "".join(f"all/{i}.png,{'odd' if i % 2 else 'even'}\n" for i in range(12))
    Path("labels.csv").write_text("path,label\n" + rows)
    for option in ("--labels", "--labels-file"):
        code, _, err = command(*TRAIN, "--data", "data", "--out", "a", option, "labels.csv")
        assert code == 0, err
    assert json.loads(Path("a/model.json").read_text())["classes"] == ["even", "odd"]
    assert about("a")["layout"] == "labels.csv"
    transfer = ("transfer", "--from", "a", "--model", "small_nets:net", "--data", "data", "--no-probe", "--epochs", 1)
    code, _, err = command(*transfer, "--batch-size", 8, "--labels", "labels.csv", "--out", "b")
    assert code == 0, err
    assert about("b/pretrained-0")["train"]["images"] == 10
