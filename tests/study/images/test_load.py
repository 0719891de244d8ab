"""Data sets from folders and parquet, compared with what was written; everything wrong is one clear error."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images.load import load, train_and_validation

RNG = np.random.default_rng(0)


def picture(size=(12, 10), grey=False) -> Image.Image:
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, pictures, labels, names=("cat", "dog"), column="img", label="label") -> None:
    feature = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({column: datasets.Image(), label: feature})
    rows = [{"bytes": p if isinstance(p, bytes) else encoded(p), "path": None} for p in pictures]
    table = datasets.Dataset.from_dict({column: rows, label: labels}, features=features)
    table.to_parquet(str(path))


def folder(root, counts, split="") -> None:
    for name, count in counts.items():
        where = root / split / name
        where.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture().save(where / f"{i}.png")


def test_parquet_keeps_order_pixels_labels_and_names(tmp_path) -> None:
    (tmp_path / "d").mkdir()
    pictures = [picture() for _ in range(7)]
    parquet(tmp_path / "d" / "train-00000.parquet", pictures, [0, 1, 0, 1, 1, 0, 0])
    parquet(tmp_path / "d" / "test-00000.parquet", pictures[:2], [1, 0])
    train, test = train_and_validation(str(tmp_path / "d"))
    assert train.labels.tolist() == [0, 1, 0, 1, 1, 0, 0]
    assert test.labels.tolist() == [1, 0]
    assert train.classes == ("cat", "dog")
    for pixels, original in zip(train.pixels, pictures, strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(original))


def test_an_image_folder_is_named_by_its_folders(tmp_path) -> None:
    folder(tmp_path / "d", {"ant": 5, "bee": 3}, "train")
    folder(tmp_path / "d", {"bee": 2, "ant": 1}, "test")
    train, test = train_and_validation(str(tmp_path / "d"))
    assert train.classes == ("ant", "bee")
    assert sorted(train.labels.tolist()) == [0] * 5 + [1] * 3
    assert sorted(test.labels.tolist()) == [0, 1, 1]
    assert train.shape == (3, 10, 12)


def test_one_parquet_file_and_a_stratified_tenth_held_out(tmp_path) -> None:
    parquet(tmp_path / "d.parquet", [picture() for _ in range(40)], [i % 2 for i in range(40)])
    train, test = train_and_validation(str(tmp_path / "d.parquet"), seed=3)
    assert (len(train), len(test)) == (36, 4)
    assert sorted(test.labels.tolist()) == [0, 0, 1, 1]
    again, _ = train_and_validation(str(tmp_path / "d.parquet"), seed=3)
    assert torch.equal(train.pixels, again.pixels)
    assert not {p.numpy().tobytes() for p in train.pixels} & {p.numpy().tobytes() for p in test.pixels}


def test_size_scales_the_shorter_side_and_cuts_the_rest(tmp_path) -> None:
    parquet(tmp_path / "d.parquet", [picture((8, 16)), picture((20, 8))] * 10, [0, 1] * 10)
    train, _ = train_and_validation(str(tmp_path / "d.parquet"), size=8)
    assert train.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("grey", "asked", "channels"), [(True, None, 1), (False, None, 3), (True, 3, 3), (False, 1, 1)]
)
def test_channels_follow_the_images_unless_asked(tmp_path, grey, asked, channels) -> None:
    parquet(tmp_path / "d.parquet", [picture(grey=grey) for _ in range(20)], [0, 1] * 10)
    train, _ = train_and_validation(str(tmp_path / "d.parquet"), channels=asked)
    assert train.shape[0] == channels


def broken(tmp_path, **changes):
    """A folder with a training and a test file, of which something may be wrong."""
    (tmp_path / "d").mkdir()
    train = {"pictures": [picture() for _ in range(6)], "labels": [0, 1, 0, 1, 1, 0]}
    test = {"pictures": [picture() for _ in range(2)], "labels": [1, 0]}
    parquet(tmp_path / "d" / "train-0.parquet", **(train | changes.get("train", {})))
    parquet(tmp_path / "d" / "test-0.parquet", **(test | changes.get("test", {})))
    return str(tmp_path / "d")


GOOD = [picture() for _ in range(4)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"pictures": [*GOOD, b"no image", b""]}}, r"2 of 6 images .* do not decode: row 4 .*--skip-bad"),
        ({"train": {"pictures": [*GOOD, encoded(picture())[:60], picture()]}}, "1 of 6 images"),
        ({"train": {"pictures": [*GOOD, picture((5, 5)), picture()]}}, r"differ in size .*--size"),
        ({"test": {"pictures": [picture((5, 5))] * 2}}, r"training images .* 3 × 10 × 12, validation .*--size"),
        ({"train": {"labels": [0] * 6}}, "validation holds dog, of which training has no image"),
        ({"train": {"labels": [0, 1, 0, 1, None, 0]}}, "1 labels are missing .* row 4"),
        (
            {"train": {"names": None, "labels": [0, 1, 0, -3, 1, 0]}, "test": {"names": None}},
            "1 labels .* outside 0 to 1 .*-3 in row 3",
        ),
        (
            {"train": {"names": None}, "test": {"names": None, "labels": [7, 0]}},
            r"1 labels .*\(test\) are outside 0 to 1 .*7 in row 0",
        ),
    ],
)
def test_wrong_data_is_one_clear_error(tmp_path, changes, said) -> None:
    source = broken(tmp_path, **changes)
    with pytest.raises(StudyError, match=said) as raised:
        train_and_validation(source)
    assert "\n" not in str(raised.value)


def test_bad_images_are_left_out_on_request_and_named(tmp_path) -> None:
    source = broken(tmp_path, train={"pictures": [*GOOD, b"no image", picture()]})
    found = load(source, skip_bad=True)
    assert found.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert found.bad == ("row 4 (not an image)",)
    assert found.about()["train"]["images"] == 5


def test_bad_files_of_a_folder_are_named_by_their_path(tmp_path) -> None:
    folder(tmp_path / "d", {"ant": 3, "bee": 3})
    (tmp_path / "d" / "bee" / "1.png").write_bytes(b"nothing")
    with pytest.raises(StudyError, match=r"1 of 6 .*bee/1\.png \(not an image\)"):
        train_and_validation(str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: (p / "d").mkdir(), "is empty"),
        (lambda p: None, "does not exist"),
        (lambda p: (p / "d").write_text("x"), "not a data set"),
    ],
)
def test_no_data_at_all(tmp_path, make, said) -> None:
    make(tmp_path)
    with pytest.raises(StudyError, match=said):
        train_and_validation(str(tmp_path / "d"))


def test_columns_that_cannot_be_guessed_are_asked_for(tmp_path) -> None:
    parquet(tmp_path / "d.parquet", GOOD, [0, 1, 0, 1], names=None, label="kind")
    with pytest.raises(StudyError, match=r"which column holds the labels.*img, kind.*--label-column"):
        train_and_validation(str(tmp_path / "d.parquet"))
    train, _ = train_and_validation(str(tmp_path / "d.parquet"), label="kind")
    assert len(train) == 2
    with pytest.raises(StudyError, match="no column 'pixels'"):
        train_and_validation(str(tmp_path / "d.parquet"), image="pixels", label="kind")
