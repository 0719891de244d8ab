"""WebDataset's archives, against the same images in folders."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images.find import find
from racecar.study.images.fitting import load_fitting


def quiet(text: str) -> None:
    pass


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), number, np.uint8)).save(file, "png")
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: range, **label) -> dict[str, bytes]:
    """Images of class number % 2; label: how it is written."""
    found: dict[str, bytes] = {}
    for i in numbers:
        long = "deep/" * 30 if i == 3 else ""  # a name that needs a header of its own
        found[f"{long}{i:04}.png"] = encoded(i)
        found |= {f"{long}{i:04}.{ending}": write(i % 2) for ending, write in label.items()}
    return found


WAYS = {
    "numbers": {"cls": lambda c: str(c).encode()},
    "names": {"cls": lambda c: b"dog\n" if c else b"cat\n"},
    "json": {"json": lambda c: json.dumps({"id": 7, "label": c}).encode(), "txt": lambda c: b"a caption"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("processes", [None, 0], ids=["held", "on the way"])
def test_shards_of_two_splits(way, processes, tmp_path) -> None:
    archive(tmp_path / "pets-train-000000.tar", samples(range(10), **WAYS[way]))
    archive(tmp_path / "pets-train-000001.tar", samples(range(10, 14), **WAYS[way]))
    archive(tmp_path / "val" / "000000.tar", samples(range(20, 25), **WAYS[way]))
    loaded = load_fitting(str(tmp_path), stream=processes is not None, decoders=processes, tell=quiet)
    assert (len(loaded.train), len(loaded.validation)) == (14, 5)
    assert loaded.train.classes == (("cat", "dog") if way == "names" else ("0", "1"))
    assert loaded.found.layout == "WebDataset"
    assert loaded.found.validation_split == "val"
    assert loaded.train.labels.tolist() == [0, 1] * 7
    for images, numbers in ((loaded.train, range(14)), (loaded.validation, range(20, 25))):
        assert torch.cat([p for p, _ in images.in_order(4)])[:, 0, 0, 0].tolist() == list(numbers)
    assert loaded.found.train.rows.name(12) == str(tmp_path / "pets-train-000001.tar" / "0012.png")


def test_one_archive_is_split(tmp_path) -> None:
    path = archive(tmp_path / "all.tar", samples(range(20), **WAYS["numbers"]))
    found = find(str(path), tell=quiet)
    assert (len(found.train), len(found.validation)) == (18, 2)
    first = found.train.checksum()
    archive(tmp_path / "all.tar", samples(range(20), cls=lambda c: str(1 - c).encode()))
    assert find(str(path), tell=quiet).train.checksum() != first


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("members", "mode", "then", "said"),
    [
        (samples(range(4)), "w", None, r"archives without labels beside the images \(\.cls, or \.json\)"),
        (samples(range(4), **WAYS["numbers"]), "w", cut, "cannot be read as an archive: unexpected end of data"),
        (samples(range(4), json=lambda c: b"{"), "w", None, r"the \.json beside .*0000\.png is none"),
        (samples(range(4), **WAYS["numbers"]) | {"9.png": encoded(9)}, "w", None, "1 labels are missing"),
        ({"readme.txt": b"?"}, "w", None, "holds no images"),
        (samples(range(4), **WAYS["numbers"]), "w:gz", None, "cannot be read as an archive"),
    ],
    ids=["no labels", "cut off", "no json", "one without", "no images", "compressed"],
)
def test_what_is_refused(members, mode, then, said, tmp_path) -> None:
    path = archive(tmp_path / "train.tar", members, mode)
    if then is not None:
        then(path)
    with pytest.raises(StudyError, match=said):
        find(str(tmp_path), tell=quiet)


def test_compressed_ones_are_told_by_their_name(tmp_path) -> None:
    archive(tmp_path / "train.tar.gz", samples(range(4), **WAYS["numbers"]), "w:gz")
    with pytest.raises(StudyError, match=r"compressed archives, which cannot be read at any place: .*train\.tar\.gz"):
        find(str(tmp_path), tell=quiet)
