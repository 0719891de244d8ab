"""The motion filter against values MATLAB prints, the published file's layout, and its wrong forms."""

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.signal import convolve2d

from racecar.study.core.errors import StudyError
from racecar.study.digits.nmnist import ANGLE, LENGTH, blurred, motion_kernel, read_mat
from racecar.study.images.decoded import Images


def test_kernel_is_matlabs_fspecial() -> None:
    # h = fspecial('motion', 3, 45), as MATLAB prints it
    expected = [[0, 0.0754, 0.1883], [0.0754, 0.3215, 0.0754], [0.1883, 0.0754, 0]]
    torch.testing.assert_close(motion_kernel(3, 45), torch.tensor(expected, dtype=torch.float64), atol=5e-5, rtol=0)
    torch.testing.assert_close(motion_kernel(9, 0), torch.full((1, 9), 1 / 9, dtype=torch.float64))
    torch.testing.assert_close(motion_kernel(7, 90), torch.full((7, 1), 1 / 7, dtype=torch.float64))


@pytest.mark.parametrize(("length", "angle"), [(5, 15), (5, 165), (9, 30), (20, 45), (4, 200), (7, 120)])
def test_kernel_is_a_line_through_its_centre(length, angle) -> None:
    kernel = motion_kernel(length, angle)
    assert kernel.sum().item() == pytest.approx(1)
    assert (kernel >= 0).all()
    torch.testing.assert_close(kernel, kernel.flip(0, 1))  # as much on one side as on the other
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    # Its weight lies along the angle: counter-clockwise, with rows counted downwards.
    rows, columns = np.indices(kernel.shape)
    y, x = (kernel.shape[0] - 1) / 2 - rows, columns - (kernel.shape[1] - 1) / 2
    weights = kernel.numpy()
    direction = 0.5 * np.degrees(np.arctan2(2 * (weights * x * y).sum(), (weights * (x**2 - y**2)).sum()))
    assert (direction - angle + 90) % 180 - 90 == pytest.approx(0, abs=4)


def test_mirrored_angles_give_mirrored_kernels() -> None:
    torch.testing.assert_close(motion_kernel(5, 15), motion_kernel(5, 165).flip(1))


def test_images_are_filtered_with_zeros_around_them() -> None:
    pixels = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.tensor([3, 1, 2]), tuple("0123456789"))
    found = blurred(images)
    kernel = motion_kernel(LENGTH, ANGLE).numpy()
    for before, after in zip(pixels[:, 0].numpy(), found.pixels[:, 0].numpy(), strict=True):
        expected = convolve2d(before.astype(float), kernel, mode="same")
        assert np.abs(after - expected).max() <= 0.5 + 1e-4
    assert found.labels.tolist() == [3, 1, 2]


def contents(**changes) -> dict:
    rng = np.random.default_rng(0)
    found = {
        "train_x": rng.integers(0, 256, (6, 784), dtype=np.uint8),
        "train_y": np.eye(10)[[5, 0, 4, 1, 9, 2]],
        "test_x": rng.integers(0, 256, (3, 784), dtype=np.uint8),
        "test_y": np.eye(10)[[7, 2, 1]],
    }
    return {k: v for k, v in (found | changes).items() if v is not None}


def test_the_published_file_is_read(tmp_path) -> None:
    savemat(tmp_path / "n.mat", contents())
    train, test = read_mat(tmp_path / "n.mat")
    assert train.labels.tolist() == [5, 0, 4, 1, 9, 2]
    assert test.labels.tolist() == [7, 2, 1]
    assert train.pixels[2, 0].flatten().tolist() == contents()["train_x"][2].tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (contents(test_y=None), "test_y"),
        (contents(train_x=np.zeros((6, 100), np.uint8)), "is not the n-MNIST file"),
        (b"no MATLAB file", "is not the n-MNIST file"),
        (None, "does not exist"),
    ],
)
def test_another_file_is_one_clear_error(tmp_path, content, said) -> None:
    path = tmp_path / "n.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        savemat(path, content)
    with pytest.raises(StudyError, match=said):
        read_mat(path)
