"""Folders as people have them: what is found, image by image, or the line that refuses."""

import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images.find import find
from racecar.study.images.found import Found, Split
from racecar.study.images.tree import openable

from .conftest import draw, plain


def quiet(text: str) -> None:
    pass


def by_class(found: Found, split: Split) -> dict[str, int]:
    """Images of every class, by the first folder of their paths that is called so."""
    seen: Counter[str] = Counter()
    for i, label in enumerate(split.labels.tolist()):
        path = split.rows[i]
        assert isinstance(path, str)
        assert os.path.isfile(path)
        assert found.classes[label] in path.split(os.sep)
        seen[found.classes[label]] += 1
    return dict(seen)


def both(found: Found) -> dict[str, int]:
    return dict(sorted((Counter(by_class(found, found.train)) + Counter(by_class(found, found.validation))).items()))


def test_classes_are_the_first_level_and_a_tenth_of_each_is_held_out(tmp_path: Path) -> None:
    found = find(str(plain(tmp_path / "d", count=20)), tell=quiet)
    assert by_class(found, found.train) == {"cat": 18, "dog": 18}
    assert by_class(found, found.validation) == {"cat": 2, "dog": 2}
    assert found.sentence() == ("train 36 / validation 4 (held out: a tenth, stratified) · 2 classes: cat 20, dog 20")
    paths = {found.train.rows[i] for i in range(36)} | {found.validation.rows[i] for i in range(4)}
    assert len(paths) == 40


def test_a_class_with_one_image_stays_in_training(tmp_path: Path) -> None:
    plain(tmp_path)
    draw(tmp_path / "eel", 1)
    found = find(str(tmp_path), tell=quiet)
    assert by_class(found, found.train)["eel"] == 1
    assert by_class(found, found.validation) == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("Train", "VALID"), ("TRAINING", "Test"), ("training", "dev"), ("train", "eval")],
)
def test_splits_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    plain(tmp_path / train)
    plain(tmp_path / test, count=2)
    found = find(str(tmp_path), tell=quiet)
    assert by_class(found, found.train) == {"cat": 4, "dog": 4}
    assert by_class(found, found.validation) == {"cat": 2, "dog": 2}
    assert f"(split {test})" in found.sentence()


def test_validation_counts_before_test_and_what_is_not_used_is_said(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 3), ("val", 2)):
        plain(tmp_path / split, count=count)
    found = find(str(tmp_path), tell=quiet)
    assert (len(found.validation), found.validation_split) == (4, "val")
    assert found.sentence().endswith("not used: test")
    assert len(find(str(tmp_path), validation="TEST", tell=quiet).validation) == 6


CLASSES: dict[str, tuple[Callable[[Path], object], dict[str, int]]] = {
    "names that begin like a split": (
        lambda p: plain(p, ("cat", "test tube", "trainer")),
        {"cat": 4, "test tube": 4, "trainer": 4},
    ),
    "called like splits, without classes": (
        lambda p: plain(p, ("test", "train", "val")),
        {"test": 4, "train": 4, "val": 4},
    ),
    "one called like a split": (lambda p: plain(p, ("car", "train")), {"car": 4, "train": 4}),
    "a space, a letter, a mark": (
        lambda p: plain(p, ("a b", "ünï", "日本", "[x]", "1.5")),
        {"1.5": 4, "[x]": 4, "a b": 4, "ünï": 4, "日本": 4},
    ),
    "a line break": (lambda p: plain(p, ("a\nb", "c")), {"a\nb": 4, "c": 4}),
    "deeper": (lambda p: [draw(p / n / "2021" / "a") for n in ("cat", "dog")], {"cat": 4, "dog": 4}),
    "as deep as a split's": (
        lambda p: [draw(p / n / m, start=s) for n in ("cat", "dog") for m, s in (("x", 0), ("y", 4))],
        {"cat": 8, "dog": 8},
    ),
    "some deeper": (lambda p: [plain(p), draw(p / "cat" / "more", 2)], {"cat": 6, "dog": 4}),
    "suffixes in any case": (
        lambda p: [plain(p), draw(p / "cat", 1, ".PNG", 50), draw(p / "dog", 1, ".JPeG", 50)],
        {"cat": 5, "dog": 5},
    ),
    "another suffix than its content": (lambda p: [plain(p), draw(p / "dog", 2, ".webp", 50)], {"cat": 4, "dog": 6}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_by_any_name(tmp_path: Path, name: str) -> None:
    make, expected = CLASSES[name]
    make(tmp_path / "d")
    found = find(str(tmp_path / "d"), tell=quiet)
    assert both(found) == expected
    assert "\n" not in found.sentence()


def test_names_are_composed_and_bytes_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é")
    plain(tmp_path / "train", ("é", "x"))
    plain(tmp_path / "val", (decomposed, "x"))
    assert find(str(tmp_path), tell=quiet).classes == ("x", "é")
    try:
        os.makedirs(os.fsencode(tmp_path / "other") + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes text alone")
    plain(tmp_path / "other", ("x",))
    shutil.copy(tmp_path / "other" / "x" / "000.png", os.fsencode(tmp_path / "other") + b"/caf\xe9/\xff.png")
    found = find(str(tmp_path / "other"), tell=quiet)
    assert found.classes == ("caf\\xe9", "x")
    content = found.train.rows[0]
    assert isinstance(content, str)
    with Image.open(content) as picture:
        assert picture.size == (6, 6)
    found.sentence().encode()
    found.train.rows.name(0).encode()


def test_links_are_followed_and_those_that_lead_back_end(tmp_path: Path) -> None:
    plain(tmp_path / "elsewhere", ("cat",))
    root = plain(tmp_path / "d", ("dog", "owl"))
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "dog" / "all").symlink_to(root)
    (root / "owl" / "self").symlink_to("self")
    (root / "owl" / "one.png").symlink_to(root / "dog" / "000.png")
    (root / "owl" / "gone.png").symlink_to(root / "dog" / "999.png")
    found = find(str(root), tell=quiet)
    assert both(found) == {"cat": 4, "dog": 4, "owl": 5}
    assert found.left_out == {"link that leads back up": 1, "broken link": 2}
    assert "left out: 2 broken link, 1 link that leads back up" in found.sentence()


def test_what_systems_leave_everywhere_is_no_data(tmp_path: Path) -> None:
    plain(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._cat", ".cache/0.png", "__MACOSX/cat/._0.png",
                 "cat/Thumbs.db", "dog/.hidden.png", "cat/@eaDir/000.png/SYNOPHOTO_THUMB_M.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "cat" / "000.png", tmp_path / name)
    found = find(str(tmp_path), tell=quiet)
    assert both(found) == {"cat": 4, "dog": 4}
    assert found.left_out == {}


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    plain(tmp_path)
    closed = ".nef" if ".heic" in openable() else ".heic"
    for name in ("README.md", f"cat/a{closed.upper()}", "cat/b.xml", "dog/b.xml", f"dog/c{closed}", "dog/plain",
                 "dog/x.jpg.part"):  # fmt: skip
        (tmp_path / name).write_bytes(b"?")
    found = find(str(tmp_path), tell=quiet)
    assert both(found) == {"cat": 4, "dog": 4}
    assert found.left_out == {".md": 1, ".xml": 2, "without extension": 1, ".part": 1, closed: 2}
    assert ", 1 .part, 2 .xml, 1 without extension" in found.sentence()


def test_a_sibling_without_images_is_left_out_and_counted(tmp_path: Path) -> None:
    plain(tmp_path / "train")
    plain(tmp_path / "test", count=2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text("<a/>")
    found = find(str(tmp_path), tell=quiet)
    assert found.left_out == {".xml": 1, "folder without images": 1}


def beside(root: Path) -> None:
    plain(root)
    draw(root, 3)


def beside_in_a_split(root: Path) -> None:
    plain(root / "train")
    draw(root / "train", 3)


def flat_test(root: Path) -> None:
    plain(root / "train")
    draw(root / "test", 5)


def holdout(root: Path) -> None:
    plain(root / "train")
    plain(root / "holdout")


def empty_class(root: Path) -> None:
    plain(root)
    (root / "eel").mkdir()


def class_of_heic(root: Path) -> None:
    empty_class(root)
    (root / "eel" / "a.nef").write_bytes(b"?")


def empty_split(root: Path) -> None:
    plain(root / "train")
    (root / "val" / "cat").mkdir(parents=True)


def only_others(root: Path) -> None:
    root.mkdir()
    (root / "a.txt").write_text("?")


def splits_below_classes(root: Path) -> None:
    for name in ("cat", "dog"):
        plain(root / name, ("train", "test"))


def broken_class(root: Path) -> None:
    plain(root)
    (root / "eel").symlink_to(root / "nowhere")


def kaggle(root: Path) -> None:
    for name in ("training_set", "test_set"):
        plain(root / name)


def kaggle_twice(root: Path) -> None:
    for name in ("training_set", "test_set"):
        plain(root / name / name)


def twice(root: Path) -> None:
    plain(root / "train")
    plain(root / "Train")


def two_validations(root: Path) -> None:
    for name in ("train", "valid", "val"):
        plain(root / name)


def only_in_validation(root: Path) -> None:
    plain(root / "train")
    plain(root / "val", ("cat", "eel"))


def one_each(root: Path) -> None:
    for name in "abc":
        draw(root / name, 1)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "images beside the classes": (beside, r"d holds 3 images beside the folders of its classes \(cat/, dog/\)"),
    "in a split": (beside_in_a_split, r"d/train holds 3 images beside the folders"),
    "images beside splits": (
        lambda p: [holdout(p), shutil.rmtree(p / "holdout"), draw(p, 1)],
        r"d holds 1 image beside train/",
    ),
    "a test split without classes": (
        flat_test,
        r"d/test holds 5 images and no classes, beside train/.*move the folder",
    ),
    "a sibling that is no split": (holdout, r"d holds holdout/ beside train/.*rename holdout/"),
    "no classes": (lambda p: draw(p), r"holds 4 images and no folders.*one folder per class.*--labels"),
    "one class": (lambda p: plain(p, ("cat",)), r"holds one class, cat, .*add the folder of another class"),
    "one class in a split": (lambda p: plain(p / "train", ("cat",)), r"holds one class, cat"),
    "a folder too high": (
        lambda p: plain(p / "PetImages"),
        r"one class, PetImages, .*holds cat/, dog/: if these are the classes, give it",
    ),
    "an empty class": (
        empty_class,
        r"d/eel: a class without an image that can be opened: add some, or remove the folder",
    ),
    "a class of what does not open": (class_of_heic, r"d/eel: .* \(1 \.nef\)"),
    "a class that is a broken link": (broken_class, r"d/eel: a class without an image .* \(1 broken link\)"),
    "an empty split": (empty_split, r"d/val: a split without an image"),
    "nothing": (lambda p: p.mkdir(), r"d is empty.*one folder of images per class"),
    "no images": (only_others, r"d holds no image that can be opened \(1 \.txt\)"),
    "splits below classes": (
        splits_below_classes,
        r"d/cat holds test/, train/: put splits above the classes, as in test/cat/",
    ),
    "splits a level too low": (
        lambda p: [plain(p / "all" / s) for s in ("train", "test")],
        r"d/all holds test/, train/: give it as --data .*d/all",
    ),
    "no suffixes": (
        lambda p: [draw(p / c, suffix="") for c in "ab"],
        r"\(8 without extension; images are known by their suffix",
    ),
    "names like splits'": (kaggle, r"holds test_set/, training_set/.*call them train, validation or test"),
    "the same, twice": (kaggle_twice, r"holds test_set/, training_set/.*call them train, validation or test"),
    "two splits to train on": (twice, r"several splits to train on, Train, train"),
    "two to measure on": (two_validations, r"several splits to measure on, val, valid; choose one with --validation"),
    "no split to train on": (lambda p: plain(p / "test"), r"holds no train/, only test/.*--data .*d/test"),
    "a class of validation alone": (
        only_in_validation,
        r"\(val\): validation holds eel, of which training has no image",
    ),
    "one image per class": (one_each, r"one image per class, so that none can be held out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    make(tmp_path / "d")
    with pytest.raises(StudyError, match=said) as raised:
        find(str(tmp_path / "d"), tell=quiet)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("val", r"no split 'val', only train, valid, test; --validation valid\?"),
        ("validaton", r"--validation valid\?"),
        ("tst", r"--validation test\?"),
        ("dev", r"no split 'dev'.*--validation valid\?"),
        ("train", r"train is trained on"),
    ],
)
def test_a_split_that_is_not_there(tmp_path: Path, wanted: str, said: str) -> None:
    for name in ("train", "valid", "test"):
        plain(tmp_path / name)
    with pytest.raises(StudyError, match=said):
        find(str(tmp_path), validation=wanted, tell=quiet)


def test_a_split_of_a_folder_without_any(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no split 'val'.*leave out --validation"):
        find(str(plain(tmp_path)), validation="val", tell=quiet)


def test_many_classes_are_told_by_the_smallest_and_the_largest(tmp_path: Path) -> None:
    for i in range(25):
        draw(tmp_path / f"c{i:02}", 2 + (i == 3) - (i == 5))
    assert "25 classes, from c05 1 to c03 3" in find(str(tmp_path), tell=quiet).sentence()


def test_on_a_plain_folder_it_is_what_datasets_finds(tmp_path: Path) -> None:
    for split in ("train", "test"):
        plain(tmp_path / split, ("dog", "dog a", "Cat"), 12)
    found = find(str(tmp_path), tell=quiet)
    known = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), drop_labels=False)
    for split, name in ((found.train, "train"), (found.validation, "test")):
        rows = known[name].cast_column("image", datasets.Image(decode=False))
        assert [split.rows[i] for i in range(len(split))] == [row["image"]["path"] for row in rows]
        assert split.labels.tolist() == rows["label"][:]
        assert found.classes == tuple(rows.features["label"].names)


def test_classes_that_look_alike_are_said(tmp_path: Path) -> None:
    if os.path.normcase("A") == "a":
        pytest.skip("one name here")
    assert "classes that differ in case or spaces alone: Cat, cat" in find(
        str(plain(tmp_path, ("Cat", "cat", "dog"))), tell=quiet
    ).sentence()  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [("d.zip", "unpack it"), ("d.tar.gz", "unpack it"), ("l.csv", r"--labels .*l\.csv"), ("a.png", "give a folder")],
)
def test_a_file_that_is_no_data_set(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    with pytest.raises(StudyError, match=f"is not a data set: .*{said}"):
        find(str(tmp_path / name), tell=quiet)
