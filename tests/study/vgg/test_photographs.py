"""Streamed photographs: order, crops and sharing against the same done one by one; whatever is wrong with a file."""

import io
import itertools
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.classification.batches import Normalisation
from racecar.study.core.errors import StudyError
from racecar.study.images.crops import Crops
from racecar.study.vgg.photographs import Photographs, load

UNIT = Normalisation.unit(3)
CROPS = Crops(32, (0.3, 1.0))


def photograph(number: int, width: int, height: int) -> Image.Image:
    """Smooth, so that a JPEG keeps it; its mean red says which one it is."""
    y, x = np.mgrid[0:height, 0:width]
    red = np.full((height, width), 8 * number)
    pixels = np.stack([red, x * 255 // width, y * 255 // height], -1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """22 photographs of three classes in several sizes, 6 to test on."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 22), ("validation", 6)):
        for i in range(count):
            path = root / split / "abc"[i % 3] / f"{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(i, 60 + 4 * (i % 5), 50 + 6 * (i % 3)).save(path, quality=95)
    return root


@pytest.fixture(scope="module")
def photographs(folder) -> Photographs:
    return load(str(folder), CROPS, UNIT)


def test_an_epoch_holds_every_photograph_once_with_its_label(photographs) -> None:
    parts = list(photographs.batches(8, 0, "none", 0, 1).epoch(0))
    assert [len(labels) for _, labels, _ in parts] == [8, 8, 6]
    assert all(b.shape[1:] == (3, 32, 32) for b, _, _ in parts)
    seen = torch.cat([(b[:, 0].mean((1, 2)) * 255 / 8).round().long() for b, _, _ in parts])
    labels = torch.cat([y for _, y, _ in parts])
    assert sorted(seen.tolist()) == list(range(22))
    assert torch.equal(labels, seen % 3)


def test_order_and_crops_are_functions_of_seed_and_epoch(photographs) -> None:
    def epoch(seed: int, number: int, first: int = 0) -> torch.Tensor:
        return torch.cat([b for b, _, _ in photographs.batches(5, seed, "none", 0, 1).epoch(number, first)])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    assert torch.equal(epoch(0, 1, 2), epoch(0, 1)[10:])
    firsts = [epoch(s, e)[0] for s in range(2) for e in range(2)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(firsts, 2))


@pytest.mark.parametrize(("size", "weights"), [(8, [(1, 1)] * 3), (7, [(8 / 7, 6 / 7)] * 3)])
def test_two_processes_see_together_what_one_sees(photographs, size, weights) -> None:
    one = list(photographs.batches(size, 2, "none", 0, 1).epoch(0))
    two = [list(photographs.batches(size, 2, "none", r, 2).epoch(0)) for r in range(2)]
    for number, (a, b) in enumerate(zip(*two, strict=True)):
        assert torch.equal(a[0], one[number][0][0::2])
        assert torch.equal(b[1], one[number][1][1::2])
        assert (a[2], b[2]) == pytest.approx(weights[number])
    shares = [torch.cat([x for x, _ in photographs.tests(2, r, 2)]) for r in range(2)]
    assert sum(map(len, shares)) == 6


def test_a_crop_is_a_box_of_the_photograph_and_half_are_mirrored() -> None:
    picture = photograph(3, 200, 160)
    mirrored, areas = 0, []
    for seed in range(200):
        found = np.asarray(CROPS.train(picture.copy(), seed)).astype(float)
        across, down = found[..., 1].mean(0), found[..., 2].mean(1)
        mirrored += across[0] > across[-1]
        width, height = (abs(v[-1] - v[0]) / 255 * 32 / 31 for v in (across, down))
        areas.append(width * height)
        assert 3 / 4 * 0.85 < width * 200 / (height * 160) < 4 / 3 * 1.15
    assert 70 < mirrored < 130
    assert 0.25 < min(areas) < 0.4
    assert 0.85 < max(areas) < 1.1


def test_a_test_crop_is_the_centre() -> None:
    """As Pillow does it: the shorter side 256/224 of the size, then the middle."""
    picture = photograph(3, 400, 300)
    found = np.asarray(Crops(224).test(picture.copy())).astype(float)
    small = picture.resize((round(400 * 256 / 300), 256), Image.Resampling.BILINEAR)
    left, top = (small.width - 224) // 2, (small.height - 224) // 2
    expected = np.asarray(small.crop((left, top, left + 224, top + 224))).astype(float)
    assert abs(found - expected).mean() < 2


def test_a_huge_jpeg_is_decoded_small() -> None:
    buffer = io.BytesIO()
    photograph(3, 1600, 1200).save(buffer, "jpeg", quality=95)
    reference = np.asarray(CROPS.test(photograph(3, 1600, 1200))).astype(float)
    with Image.open(buffer) as opened:
        found = np.asarray(CROPS.test(opened)).astype(float)
        assert opened.size[0] <= 400
    assert abs(found - reference).mean() < 3


def test_a_photograph_stands_upright(tmp_path) -> None:
    """As its EXIF says, also where a large JPEG is decoded small."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = photograph(3, 800, 600).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "a.jpg", quality=95, exif=exif)
    expected = np.asarray(CROPS.test(photograph(3, 800, 600))).astype(float)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert abs(np.asarray(CROPS.test(opened)).astype(float) - expected).mean() < 3
    with Image.open(tmp_path / "a.jpg") as opened:
        found = np.asarray(CROPS.train(opened, 7)).astype(float)
    assert abs(found - np.asarray(CROPS.train(photograph(3, 800, 600), 7)).astype(float)).mean() < 3


def test_a_share_is_balanced(photographs) -> None:
    some = photographs.limited(7, 3)
    assert (some.train_count, some.test_count) == (7, 3)
    assert sorted(some.train.labels.bincount().tolist()) == [2, 2, 3]
    assert some.test.labels.bincount().tolist() == [1, 1, 1]
    assert some.fingerprint() != photographs.fingerprint()
    assert photographs.limited(None, 100).fingerprint() == photographs.fingerprint()


def test_parquet_shards_without_a_test_split_give_a_tenth(tmp_path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [photograph(i, 40, 40) for i in range(20)], "label": [i % 2 for i in range(20)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    for i in range(2):
        whole.shard(2, i).to_parquet(str(tmp_path / f"train-{i:05}-of-00002.parquet"))
    found = load(str(tmp_path), CROPS, UNIT)
    assert (found.train_count, found.test_count, found.classes) == (18, 2, ("a", "b"))
    assert found.test.labels.tolist() == [0, 1]
    assert found.some_tests(5).shape == (2, 3, 32, 32)


def test_a_photograph_that_does_not_decode_is_named(folder, tmp_path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    broken = tmp_path / "broken" / "train" / "b" / "04.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    found = load(str(tmp_path / "broken"), CROPS, UNIT)
    with pytest.raises(StudyError, match=r"04\.jpg .*does not decode .*mend or replace it"):
        list(found.batches(8, 0, "none", 0, 1).epoch(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "is empty"),
        (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "is not a data set"),
    ],
    ids=["missing", "empty", "text"],
)
def test_what_is_no_data_set_is_refused(make, message, tmp_path) -> None:
    with pytest.raises(StudyError, match=message):
        load(str(make(tmp_path)), CROPS, UNIT)
