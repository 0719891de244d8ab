"""Images in memory: drawn in balance, measured, kept with any names."""

import numpy as np
import pytest
import torch

from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_tensors
from racecar.study.images.decoded import Images

RNG = np.random.default_rng(0)


def test_stratified_draws_are_balanced_and_leave_the_rest() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    images = Images(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1), labels, ("a", "b", "c"))
    some, rest = images.stratified(10, 5)
    assert some.labels.bincount().tolist() == [5, 3, 2]
    assert sorted([*some.pixels.flatten().tolist(), *rest.pixels.flatten().tolist()]) == list(range(100))
    with pytest.raises(StudyError, match="cannot draw 2 of 100"):
        images.stratified(2, 0)


def test_statistics_are_numpys() -> None:
    pixels = torch.from_numpy(RNG.integers(0, 256, (20, 3, 4, 5), dtype=np.uint8))
    images = Images(pixels, torch.zeros(20, dtype=torch.long), ("ä", "b"))
    mean, spread = images.statistics()
    scaled = pixels.numpy() / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)))
    np.testing.assert_allclose(spread, scaled.std((0, 2, 3)))


def test_images_come_back_from_disk_with_any_names(tmp_path) -> None:
    pixels = torch.from_numpy(RNG.integers(0, 256, (6, 1, 2, 2), dtype=np.uint8))
    images = Images(pixels, torch.arange(6) % 3, ("a\nb", "ä", "c\udcff"))
    images.write(tmp_path / "i.safetensors")
    again = Images.read(tmp_path / "i.safetensors")
    assert torch.equal(again.pixels, pixels)
    assert torch.equal(again.labels, images.labels)
    assert again.classes == images.classes


def test_files_of_before_hold_a_name_a_line(tmp_path) -> None:
    names = torch.frombuffer(bytearray("ä\nb".encode()), dtype=torch.uint8)
    tensors = {"pixels": torch.zeros(2, 1, 1, 1, dtype=torch.uint8), "labels": torch.arange(2), "classes": names}
    write_tensors(tmp_path / "i.safetensors", tensors)
    assert Images.read(tmp_path / "i.safetensors").classes == ("ä", "b")
