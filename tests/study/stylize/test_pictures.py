"""A picture is read as the images of a data set are, or one line says why not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.stylize.pictures import read_picture, write_picture


def test_deep_lying_and_transparent_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 32_768, np.uint16)).save(tmp_path / "deep.png")
    assert torch.allclose(read_picture(tmp_path / "deep.png"), torch.full((1, 3, 4, 6), 0.5), atol=0.005)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "lying.jpg", exif=exif)
    assert read_picture(tmp_path / "lying.jpg").shape == (1, 3, 6, 4)
    Image.new("RGBA", (2, 2)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 1).all()


def test_a_picture_comes_back_and_the_longer_side_is_scaled(tmp_path: Path) -> None:
    picture = torch.rand(1, 3, 4, 8).mul(255).round() / 255
    write_picture(tmp_path / "a.png", picture)
    assert torch.allclose(read_picture(tmp_path / "a.png"), picture)
    assert read_picture(tmp_path / "a.png", 4).shape == (1, 3, 2, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_text("?"), "is not an image that can be read: not an image"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, make, said: str) -> None:
    make(tmp_path / "p.png")
    with pytest.raises(StudyError, match=said):
        read_picture(tmp_path / "p.png")
