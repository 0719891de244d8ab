"""``racecar predict``: names and probabilities of the first answers, as CSV."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study import StudyError, predict

from .conftest import NET
from .test_evaluating import answers


def test_files_and_folders(trained, command, data) -> None:
    words = ("predict", "--from", "a", "--model", NET, "--top", 2)
    code, out, err = command(*words, "data/test")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    shares, _ = answers(Path("a"), trained.load(NET), data / "test")
    assert sorted(r["picture"] for r in rows) == sorted(map(str, Path("data/test").glob("*/*.png")))
    by_name = {str(f): s for f, s in zip(sorted(Path("data/test").glob("*/*.png")), shares, strict=True)}
    for row in rows:
        expected = by_name[row["picture"]]
        order = np.argsort(-expected)
        assert [row["class_1"], row["class_2"]] == [("cat", "dog", "owl")[i] for i in order[:2]]
        assert float(row["probability_1"]) == pytest.approx(expected[order[0]], abs=1e-4)
    code, out, err = command(*words, "data/test/owl/3.png", "data/test/cat", "--out", "p.csv")
    assert code == 0, err
    assert out == "p.csv: 10 pictures\n"
    assert Path("p.csv").read_text().splitlines()[1].startswith("data/test/owl/3.png,")


def test_pictures_of_any_kind_are_cut_as_in_training(trained, tmp_path) -> None:
    picture = Image.open("data/test/cat/0.png")
    wide = Image.new("RGB", (16, 8), "white")
    wide.paste(picture, (4, 0))
    wide.save("wide, with a comma.png")
    found = predict(trained, ["wide, with a comma.png", "data/test/cat/0.png"], model=NET)
    torch.testing.assert_close(found.logits[0], found.logits[1])
    assert [name for name, _ in found.top(9)[0]] == [name for name, _ in found.top(3)[1]]
    assert '"wide, with a comma.png",' in found.csv()
    for kind in ("LA", "I;16"):
        Image.fromarray(np.full((8, 8), 200, np.uint16) if kind == "I;16" else np.zeros((8, 8, 2), np.uint8)).save(
            "odd.png"
        )
        assert predict(trained, "odd.png", model=NET).probabilities.sum() == pytest.approx(1)


def test_what_is_no_picture(trained, command) -> None:
    Path("bad.png").write_bytes(b"none")
    words = ("predict", "--from", "a", "--model", NET)
    for names, said in (
        (("bad.png", "data/test/cat/0.png"), "1 of 2 images in what was given do not decode: bad.png (not an image)"),
        (("gone.png",), "gone.png does not exist"),
        (("data/test/cat/0.png", "--top", 0), "--top must be at least 1"),
    ):
        code, _, err = command(*words, *names)
        assert code == 2
        assert said in err
    code, out, err = command(*words, "bad.png", "data/test/cat/0.png", "--skip-bad")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "left out 1 images" in err
    with pytest.raises(StudyError, match="no pictures"):
        predict(trained, [], model=NET)
