"""Labels from a file: which images get which, by every spelling; what is several labels or a quantity is refused."""

import json
from pathlib import Path

import pytest

from racecar.study.core.errors import StudyError
from racecar.study.images.find import find
from racecar.study.images.found import Found

from .conftest import draw, plain


def quiet(text: str) -> None:
    pass


def labels(found: Found) -> dict[str, str]:
    """The class of every image by its file's name."""
    named = {}
    for split in (found.train, found.validation):
        for i, label in enumerate(split.labels.tolist()):
            named[Path(str(split.rows[i])).name] = found.classes[label]
    return named


EXPECTED = {f"{i:03d}.png": "dog" if i % 2 else "cat" for i in range(6)}


@pytest.mark.parametrize(
    "lines",
    [
        ["path,label", *(f"{n},{c}" for n, c in EXPECTED.items())],
        ["path, label", *(f"{n}, {c}" for n, c in EXPECTED.items())],
        ["label;file_name", *(f"{c};{n}" for n, c in EXPECTED.items())],
        ["Image\tspecies", *(f"{n}\t{c}" for n, c in EXPECTED.items())],
        ["\ufeffFilename,Class", *(f'"./{n}","{c}"' for n, c in EXPECTED.items()), ""],
        [f"{n},{c}" for n, c in EXPECTED.items()],
        ["path,label", *(f"{n},{c}" for n, c in EXPECTED.items()), "000.png,cat"],
    ],
    ids=["csv", "spaces", "semicolons", "tabs", "quotes and a mark", "no header", "a row twice"],
)
def test_every_spelling(tmp_path: Path, lines: list[str]) -> None:
    draw(tmp_path / "d", 7)
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    found = find(str(tmp_path / "d"), labels_file=str(tmp_path / "labels.csv"), tell=quiet)
    assert labels(found) == EXPECTED
    assert found.left_out == {"not in labels.csv": 1}
    assert "labels from labels.csv" in found.sentence()


def test_paths_below_folders_and_with_backslashes_and_a_file_in_the_folder(tmp_path: Path) -> None:
    plain(tmp_path, ("a", "b"))
    rows = [f"a\\{i:03d}.png,x" for i in range(4)] + [f"b/{i:03d}.png,y" for i in range(4)]
    (tmp_path / "l.csv").write_text("\r\n".join(["path,label", *rows]))
    found = find(str(tmp_path), labels_file="l.csv", tell=quiet)
    assert (len(found.train), len(found.validation), found.classes) == (6, 2, ("x", "y"))
    assert found.left_out == {}


def test_a_column_of_splits(tmp_path: Path) -> None:
    draw(tmp_path, 6)
    rows = [f"{n},{c},{'Val' if i > 3 else 'train'}" for i, (n, c) in enumerate(EXPECTED.items())]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,split", *rows]))
    found = find(str(tmp_path), labels_file="l.csv", tell=quiet)
    assert (len(found.train), len(found.validation), found.validation_split) == (4, 2, "Val")
    assert labels(found) == EXPECTED


def test_numbers_are_sorted_as_numbers_and_whole_fractions_are_whole(tmp_path: Path) -> None:
    draw(tmp_path, 6)
    (tmp_path / "l.csv").write_text("path,label\n" + "".join(f"{i:03d}.png,{(10, 2, 1)[i % 3]}.0\n" for i in range(6)))
    found = find(str(tmp_path), labels_file="l.csv", tell=quiet)
    assert found.classes == ("1", "2", "10")
    assert labels(found)["000.png"] == "10"
    assert "labels 1 to 10 are numbered anew" in found.sentence()


def metadata(folder: Path, names: dict[str, str], suffix: str = "csv") -> None:
    if suffix == "csv":
        text = "file_name,label,text\n" + "".join(f"{n},{c},a photo\n" for n, c in names.items())
    else:
        text = "".join(json.dumps({"file_name": n, "label": c}) + "\n" for n, c in names.items())
    (folder / f"metadata.{suffix}").write_text(text)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metadata_of_imagefolder(tmp_path: Path, suffix: str) -> None:
    metadata(draw(tmp_path / "d", 6), EXPECTED, suffix)
    assert labels(find(str(tmp_path / "d"), tell=quiet)) == EXPECTED
    for split, start, count in (("train", 0, 4), ("test", 4, 2)):
        draw(tmp_path / "s" / split, count, start=start)
        metadata(tmp_path / "s" / split, dict(list(EXPECTED.items())[start : start + count]), suffix)
    found = find(str(tmp_path / "s"), tell=quiet)
    assert labels(found) == EXPECTED
    assert (len(found.train), found.validation_split) == (4, "test")


def test_metadata_above_the_splits(tmp_path: Path) -> None:
    names = {f"{'train' if i < 4 else 'Test'}/{n}": c for i, (n, c) in enumerate(EXPECTED.items())}
    draw(tmp_path / "train", 4)
    draw(tmp_path / "Test", 2, start=4)
    metadata(tmp_path, names)
    found = find(str(tmp_path), tell=quiet)
    assert labels(found) == EXPECTED
    assert (len(found.train), found.validation_split) == (4, "Test")


def test_metadata_without_labels_leaves_them_to_the_folders(tmp_path: Path) -> None:
    plain(tmp_path, ("a", "b"))
    (tmp_path / "metadata.csv").write_text("file_name,text\na/000.png,a photo\n")
    found = find(str(tmp_path), tell=quiet)
    assert found.classes == ("a", "b")
    assert found.left_out == {".csv": 1}


REFUSED = {
    "no such file": (None, r"l\.csv cannot be read: No such file"),
    "empty": ("", r"is empty"),
    "images that are not there": (
        "path,label\n000.png,a\nx.png,b\n",
        r"1 of 2 images in .*l\.csv are not in .*: x\.png",
    ),
    "no suffix": ("id,label\n000,a\n001,b\n", r"2 of 2 .*: 000, 001; 000\.png is there: paths need their suffix"),
    "other columns": ("path,a,b\n000.png,x,y\n", r"which column holds the labels\? It has path, a, b: --label-column"),
    "one column per class": (
        "path,cat,dog\n000.png,1,0\n001.png,1,1\n002.png,0,1\n",
        r"0 and 1 in the columns cat, dog: several labels",
    ),
    "a line too short": ("path,label\n000.png\n", r"line 2 has 1 columns, and the first 2"),
    "bars": ("path,label\n000.png,a|b\n001.png,a\n002.png,b\n", r"a\|b is a list of labels: several per image"),
    "words": ("path,label\n000.png,a b\n001.png,a\n002.png,b\n", r"a b is a list of labels"),
    "lists": ("path,label\n000.png,\"['a']\"\n001.png,\"['b', 'a']\"\n", r"is a list of labels"),
    "two labels for one": ("path,label\n000.png,a\n000.png,b\n", r"names 000\.png as a and b"),
    "fractions": ("path,label\n000.png,0.25\n001.png,1\n", r"quantities \(0\.25 in row 0\): regression"),
    "missing": ("path,label\n000.png,a\n001.png,\n", r"1 labels are missing .* row 1"),
    "NaN": ("path,label\n000.png,1\n001.png,nan\n", r"1 labels are missing .* row 1"),
    "numbers of their own": ("path,label\n000.png,7\n001.png,9\n002.png,9000000000\n", r"different for every image"),
    "another split": (
        "path,label,split\n000.png,a,fold1\n",
        r"a split is called train, validation or test, and not fold1",
    ),
    "bytes": (b"\xff\xfe\x00", r"is no table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_with_a_labels_file(tmp_path: Path, name: str) -> None:
    content, said = REFUSED[name]
    draw(tmp_path / "d", 3)
    if content is not None:
        (tmp_path / "l.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StudyError, match=said) as raised:
        find(str(tmp_path / "d"), labels_file=str(tmp_path / "l.csv"), tell=quiet)
    assert "\n" not in str(raised.value)


def test_labels_need_a_folder() -> None:
    with pytest.raises(StudyError, match="names the images of a folder"):
        find("owner/name", labels_file="l.csv", tell=quiet)
