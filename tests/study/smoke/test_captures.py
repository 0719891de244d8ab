"""Real smoke from parquet and from folders of images; what is wrong with it is said."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.smoke.captures import load


def png(array: np.ndarray) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def parquet(folder, arrays, **columns) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), **{k: datasets.Value("int32") for k in columns}})
    rows = {"image": [png(a) if isinstance(a, np.ndarray) else a for a in arrays], **columns}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000.parquet")
    return str(folder)


@pytest.fixture
def grey() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (35, 19), dtype=np.uint8) for _ in range(4)]


def test_frames_are_cut_around_the_centre_and_averaged(tmp_path, grey) -> None:
    found = load(parquet(tmp_path / "plume", grey, view=[0, 0, 1, 1], frame=[0, 1, 0, 1]), 2)
    assert found.pixels.shape == (4, 3, 16, 8)  # 35 × 19 → 32 × 16, halved
    assert found.view.tolist() == [0, 0, 1, 1]
    by_hand = grey[1][1:33, 1:17].astype(float).reshape(16, 2, 8, 2).mean((1, 3))
    assert np.abs(found.pixels[1, 0].numpy() - by_hand).max() <= 0.5
    assert torch.equal(found.pixels[:, 0], found.pixels[:, 2])
    assert "4 pictures of real smoke from plume, grey, so that their three channels are equal" in found.words


def test_colour_stays_and_a_folder_of_images_has_one_camera(tmp_path) -> None:
    for number in range(3):
        array = np.full((16, 16, 3), (200, 100, 10 * number), np.uint8)
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "frames" / f"{number:03d}.png")
    found = load(str(tmp_path / "frames"), 1)
    assert found.pixels[:, :, 0, 0].tolist() == [[200, 100, 0], [200, 100, 10], [200, 100, 20]]
    assert found.view.tolist() == [0, 0, 0]
    assert "grey" not in found.words


def test_what_is_wrong_is_said(tmp_path, grey) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        load(str(tmp_path / "none"), 1)
    with pytest.raises(StudyError, match=r"35 × 19 pixels \(h × w\): --capture-factor 8 needs 32 or more"):
        load(parquet(tmp_path / "small", grey), 8)
    with pytest.raises(StudyError, match="differ in size"):
        load(parquet(tmp_path / "sizes", [*grey, np.zeros((20, 20), np.uint8)]), 1)
    with pytest.raises(StudyError, match=r"1 of 5 images in .* do not decode: row 4"):
        load(parquet(tmp_path / "bad", [*grey, {"bytes": b"no image", "path": None}]), 1)
