"""Images decoded on the way, against the same images held in memory: the very same batches, whoever decodes them."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.classification.batches import Batches, Normalisation, Sets
from racecar.study.core.errors import StudyError
from racecar.study.images import labelled, streamed
from racecar.study.images.decoded import Images
from racecar.study.images.decoders import processes_gone
from racecar.study.images.find import find
from racecar.study.images.load import load
from racecar.study.images.pixels import Decoding, OneSize
from racecar.study.images.streamed import Streamed

READER = OneSize(Decoding(3, 16), (16, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """23 + 7 images of three classes in several sizes, some grey, one transparent, one lying on its side."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 23), ("validation", 7)):
        for i in range(count):
            shape = (20 + i % 5, 30 - i % 3) if i % 4 == 1 else (20 + i % 5, 30 - i % 3, 4 if i == 2 else 3)
            picture = Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
            exif = picture.getexif()
            exif[0x0112] = 6 if i == 4 else 1
            path = root / split / "abc"[i % 3] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, exif=exif)
    return root


def opened(folder: Path, processes: int = 0) -> tuple[Streamed, Streamed]:
    return streamed.streamed(find(str(folder), tell=lambda text: None), READER, READER.shape, processes)


@pytest.fixture(scope="module")
def held(folder) -> tuple[Images, Images]:
    loaded = load(str(folder), size=16, tell=lambda text: None)
    return loaded.train, loaded.validation


@pytest.fixture(scope="module", params=[0, 1], ids=["in this process", "by another"])
def images(request, folder) -> tuple[Streamed, Streamed]:
    return opened(folder, request.param)


def same(first, second) -> bool:
    return all(
        torch.equal(a, b) and torch.equal(y, z) and v == w
        for (a, y, v), (b, z, w) in zip(first, second, strict=True)
    )  # fmt: skip


AUGMENTATIONS = ["none", "crop", "flip-crop", "resized-crop", "randaugment", "trivialaugment"]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_are_those_of_images_in_memory(augmentation, images, held, monkeypatch) -> None:
    if augmentation not in ("none", "crop", "flip-crop"):
        pytest.importorskip("torchvision")
    monkeypatch.setattr(streamed, "_PIECE", 3 * 16 * 16 * 3)  # three images
    normalisation = Normalisation.of(held[0])
    assert Normalisation.of(images[0]) == normalisation
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        one, other = (
            Batches(i, 8, 5, normalisation, augmentation, rank=rank, world=world) for i in (images[0], held[0])
        )
        assert len(one) == len(other) == 3
        assert same(one.epoch(0), other.epoch(0))
        assert same(one.epoch(3, first=1), other.epoch(3, first=1))


def test_measuring_between_epochs_and_a_pass_cut_short(images, held) -> None:
    one, other = (Sets(*pair, Normalisation.unit(3)) for pair in (images, held))
    batches = one.batches(4, 0, "flip-crop", 0, 1)
    cut = batches.epoch(0)
    next(cut)
    for rank in range(2):
        for (a, y), (b, z) in zip(one.tests(2, rank, 2), other.tests(2, rank, 2), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(y, z)
    assert same(batches.epoch(1), other.batches(4, 0, "flip-crop", 0, 1).epoch(1))
    assert torch.equal(one.some_tests(3), other.some_tests(3))
    with pytest.raises(RuntimeError, match="another pass"):
        next(cut)


def test_a_share_of_the_labels(images, held) -> None:
    for ours, theirs in zip(images[0].stratified(9, 4), held[0].stratified(9, 4), strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(torch.cat([p for p, _ in ours.in_order(4)]), theirs.pixels)


def test_of_many_images_some_are_measured(images, held, monkeypatch) -> None:
    whole = held[0].statistics()
    expected = held[0].pixels.double() / 255
    assert whole[0] == pytest.approx(expected.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert whole[1] == pytest.approx(expected.std((0, 2, 3), unbiased=False).tolist(), abs=1e-9)
    monkeypatch.setattr(labelled, "MANY", 10)
    assert images[0].statistics() == held[0].statistics() != whole


def test_what_does_not_decode_is_named(folder, tmp_path) -> None:
    for split, name, content in (("train", "a", b""), ("train", "b", b"nothing"), ("validation", "a", b"GIF89a")):
        path = tmp_path / split / name / "x.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        for i in range(2):
            os.link(folder / "train" / "abc"["ab".index(name)] / f"0{'ab'.index(name)}.png", path.with_name(f"{i}.png"))
    train, test = opened(tmp_path)
    assert train.wrong() == {2: "an empty file", 5: "not an image"}
    assert list(test.wrong()) == [2]
    assert train.take(torch.tensor([5, 0])).wrong() == {0: "not an image"}
    with pytest.raises(
        StudyError, match=r"x\.png of .*\(train\) does not decode \(an empty file\): mend or replace it"
    ):
        list(train.batches([torch.tensor([0, 2])]))
    with pytest.raises(StudyError, match=r"x\.png of .*\(validation\) does not decode"):
        test.first(9)


def test_processes_end_with_a_training_that_is_left_in_its_middle(folder, tmp_path) -> None:
    """They ignore SIGTERM, by which Python ends others; and one pool ends when nobody has it any more."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import itertools, gc, multiprocessing
from racecar.study.images.fitting import load_fitting
def begin():
    passes = [load_fitting({str(folder)!r}, size=16, stream=True, decoders=1).train.in_order(4)]
    passes.append(passes)  # a cycle
    print(len(list(itertools.islice(passes[0], 2))), len(multiprocessing.active_children()))
    return passes
if __name__ == "__main__":
    begin()
    gc.collect()
    print(len(multiprocessing.active_children()))
    kept = begin()
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2 1\n0\n2 1\n"), done.stderr


def test_a_decoding_process_that_is_killed_is_one_line(images, held, monkeypatch) -> None:
    train, _ = images
    if not train.decoders.processes:
        pytest.skip("there is none")
    monkeypatch.setattr(streamed, "_PIECE", 1)
    batches = train.batches([torch.arange(23)] * 40)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(StudyError, match=r"a process that decodes images is gone .*--decoders"), processes_gone():
        list(batches)
