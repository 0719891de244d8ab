"""Source and target tasks: coarse labels over a data set's own, and the file format of MNIST."""

import gzip
from pathlib import Path

import pytest
import torch

from racecar.study.coarse_to_fine.pairs import PAIRS, SHARES
from racecar.study.coarse_to_fine.sources import CIFAR10, FASHION, Superposed
from racecar.study.coarse_to_fine.superclasses import SUPERCLASSES
from racecar.study.core.errors import StudyError
from racecar.study.images.decoded import Images

DIGITS = tuple(map(str, range(10)))
SHARED = Path(__file__).parents[4] / "shared" / "data"


def images(classes: tuple[str, ...] = DIGITS, size: int = 4) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (len(classes), 1, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(len(classes)), classes)


@pytest.mark.parametrize(
    ("pair", "coarse"),
    [
        ("mnist-parity", [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]),
        ("mnist-halves", [0] * 5 + [1] * 5),
        ("fashion-groups", [0, 1, 0, 1, 0, 2, 0, 2, 3, 2]),
        ("cifar10-animals", [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]),
        ("cifar10-halves", [0] * 5 + [1] * 5),
    ],
)
def test_coarse_labels(pair, coarse) -> None:
    found = PAIRS[pair].task_a(images())
    assert found.labels.tolist() == coarse
    assert found.classes == tuple(PAIRS[pair].groups)


def test_superclasses_are_twenty_of_five_and_found_by_name() -> None:
    assert len(SUPERCLASSES) == 20
    members = [m for group in SUPERCLASSES.values() for m in group]
    assert (len(members), len(set(members))) == (100, 100)
    names = tuple(sorted(members))  # as the data set numbers them
    found = PAIRS["cifar100-superclasses"].task_a(images(names))
    assert found.labels.bincount().tolist() == [5] * 20
    assert found.classes[int(found.labels[names.index("otter")])] == "aquatic mammals"


def test_names_are_those_of_the_data_set() -> None:
    file = SHARED / "cifar100" / "cifar100_test.npz"
    if not file.exists():
        pytest.skip("needs ../shared/data")
    np = pytest.importorskip("numpy")
    assert sorted(str(c) for c in np.load(file)["classes"]) == sorted(m for g in SUPERCLASSES.values() for m in g)


def test_a_data_set_with_other_classes_is_refused() -> None:
    with pytest.raises(StudyError, match="CIFAR-100 has no class 'beaver', which CIFAR-100, 20 superclasses"):
        PAIRS["cifar100-superclasses"].task_a(images())
    with pytest.raises(StudyError, match=r"MNIST has classes that no group .* holds: \['10'\]"):
        PAIRS["mnist-parity"].task_a(images((*DIGITS, "10")))


def test_the_mlp_sees_means_of_two_by_two_pixels() -> None:
    whole = images(size=4)
    small = PAIRS["mnist-parity"].prepared(whole)
    assert small.shape == (1, 2, 2)
    assert int(small.pixels[3, 0, 0, 1]) == round(whole.pixels[3, 0, :2, 2:].float().mean().item())
    assert PAIRS["cifar10-animals"].prepared(whole) is whole


def test_every_pair_that_is_reported_is_tuned_on_another_of_the_same_network() -> None:
    for name, pair in PAIRS.items():
        if pair.tuning:
            other = PAIRS[pair.tuning]
            assert (other.network, other.tuning) == (pair.network, "")
            assert pair.tuning != name


# --- idx --------------------------------------------------------------------------------------------------------------


def idx_file(path: Path, tensor: torch.Tensor) -> None:
    head = bytes((0, 0, 8, tensor.ndim)) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
    path.write_bytes(gzip.compress(head + bytes(tensor.flatten().tolist())))


@pytest.fixture
def fashion(tmp_path) -> Path:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    for part, count in (("train", 20), ("t10k", 10)):
        idx_file(folder / f"{part}-images-idx3-ubyte.gz", torch.randint(256, (count, 4, 4), generator=generator))
        idx_file(folder / f"{part}-labels-idx1-ubyte.gz", torch.arange(count) % 10)
    return tmp_path


def test_files_of_mnists_format_are_read(fashion) -> None:
    train, test = FASHION.load(str(fashion))
    assert (train.shape, len(train), len(test)) == ((1, 4, 4), 20, 10)
    assert train.classes[:3] == ("T-shirt/top", "Trouser", "Pullover")
    assert test.labels.tolist() == list(range(10))
    first = torch.randint(256, (20, 4, 4), generator=torch.Generator().manual_seed(1))
    assert torch.equal(train.pixels[:, 0].long(), first)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("train-labels-idx1-ubyte.gz", lambda b: None, "has no train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte.gz", lambda b: b[:-9], "cannot be read"),
        ("t10k-images-idx3-ubyte.gz", lambda b: gzip.compress(gzip.decompress(b)[:-5]), "is cut short: 155 of 160"),
        (
            "t10k-images-idx3-ubyte.gz",
            lambda b: gzip.compress(b"\0\0\x08\x01" + b"\0" * 30),
            "no idx file of bytes in 3",
        ),
        ("t10k-labels-idx1-ubyte.gz", lambda b: gzip.compress(gzip.decompress(b)[:-1] + b"\x0b"), "a label .* is 11"),
    ],
)
def test_damaged_files_are_one_line(fashion, name, change, said) -> None:
    path = fashion / "fashion-mnist" / name
    content = change(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StudyError, match=said):
        FASHION.load(str(fashion))


def test_a_folder_that_is_not_there_says_what_is_looked_for(tmp_path) -> None:
    with pytest.raises(StudyError, match="cifar10 does not exist: --data takes hub, or a folder with cifar10 in it"):
        CIFAR10.load(str(tmp_path))


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_images_laid_over_others_have_the_share_of_the_variance_and_both_labels(share, monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    base, over = (
        Images(
            (spread * torch.rand(4000, 1, 4, 4, generator=generator)).to(torch.uint8), torch.arange(4000) % 10, DIGITS
        )
        for spread in (250, 120)
    )
    monkeypatch.setattr(type(FASHION), "load", lambda self, where: (base, base) if self is CIFAR10 else (over, over))
    train, _ = Superposed(CIFAR10, FASHION, share).load("hub")
    ours, theirs = train.labels // 10, train.labels % 10
    assert torch.equal(ours, base.labels)
    assert theirs.bincount().tolist() == over.labels.bincount().tolist()
    assert train.classes[37] == "3/7"
    # Least squares on both: what each contributes to the variance.
    drawn = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    x = torch.stack([base.pixels.flatten(), over.pixels[drawn].flatten(), torch.full((64000,), 255)], 1).double()
    weights = torch.linalg.lstsq(x, train.pixels.flatten().double()[:, None]).solution[:, 0]
    parts = [float(w**2 * p.double().var(0).sum()) for w, p in zip(weights, (base.pixels, over.pixels), strict=False)]
    assert parts[1] / sum(parts) == pytest.approx(share, rel=0.05)


def test_superposed_pairs_have_two_tasks_over_the_same_images() -> None:
    joint = tuple(f"{a}/{b}" for a in DIGITS for b in DIGITS)
    for share in SHARES:
        pair = PAIRS[f"superposed-{share:g}"]
        assert pair.tuning == "superposed-tuning"
        assert pair.task_a(images(joint)).labels.tolist() == [n // 10 for n in range(100)]
        assert pair.task_b(images(joint)).labels.tolist() == [n % 10 for n in range(100)]
