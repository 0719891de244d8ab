"""Directions of data, of weights, and the angles between them, against closed forms and SciPy."""

import pytest
import torch

from racecar import analysis


def test_directions_of_data_are_those_of_their_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 6, generator=generator) * torch.tensor([5.0, 1, 3, 1, 1, 1]) + 10
    found = analysis.principal_directions(data, 2)
    _, vectors = torch.linalg.eigh(torch.cov(data.double().T))
    torch.testing.assert_close(found.abs(), vectors[:, [-1, -2]].abs())
    torch.testing.assert_close(found.T @ found, torch.eye(2, dtype=torch.float64))


def test_without_centring_two_images_span_their_plane() -> None:
    a, b = torch.tensor([1.0, 2, 0, 0]), torch.tensor([0.0, 0, 3, 0])
    found = analysis.principal_directions(torch.stack([a, b, a]), 2, centred=False)
    assert analysis.principal_angles(found, torch.stack([a, b], 1)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="count is 3; the data vary in 2 directions"):
        analysis.principal_directions(torch.stack([a, b, a]), 3, centred=False)


def test_right_singular_vectors_are_the_inputs_of_the_strongest_answers() -> None:
    left, _ = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    right, _ = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    weight = left @ torch.diag(torch.tensor([3.0, 2, 1], dtype=torch.float64)) @ right.T
    found = analysis.right_singular_vectors(weight, 2)
    torch.testing.assert_close((found.T @ right[:, :2]).abs(), torch.eye(2, dtype=torch.float64))
    kernel = weight.view(5, 2, 2, 2)
    assert torch.equal(analysis.right_singular_vectors(kernel, 2), found)


@pytest.mark.parametrize("shapes", [(7, 3, 3), (7, 2, 4), (7, 1, 6), (7, 5, 5)])
def test_angles_are_scipys(shapes) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    rows, p, q = shapes
    generator = torch.Generator().manual_seed(sum(shapes))
    a, b = (torch.randn(rows, n, dtype=torch.float64, generator=generator) for n in (p, q))
    expected = torch.from_numpy(linalg.subspace_angles(a.numpy(), b.numpy()).copy()).rad2deg().flip(0)
    torch.testing.assert_close(analysis.principal_angles(a, b), expected, atol=1e-7, rtol=1e-7)


def test_tiny_and_right_angles() -> None:
    tilt = 1e-9
    a = torch.tensor([[1.0, 0], [0, 1], [0, 0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0], [0, 0], [tilt, 1]], dtype=torch.float64)
    found = analysis.principal_angles(a, b)
    assert found[0].item() == pytest.approx(0, abs=1e-6)
    assert found[1].item() == pytest.approx(90)
    single = analysis.principal_angles(a[:, :1], torch.tensor([[1.0], [0], [tilt]], dtype=torch.float64))
    assert single.item() == pytest.approx(tilt * 180 / torch.pi, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: analysis.principal_angles(torch.ones(3, 1), torch.ones(4, 1)), "a has 3 rows and b 4"),
        (lambda: analysis.principal_angles(torch.ones(3, 2), torch.ones(3, 1)), "columns of a are not independent"),
        (lambda: analysis.right_singular_vectors(torch.ones(3), 1), r"weight has shape \(3,\)"),
        (lambda: analysis.right_singular_vectors(torch.ones(3, 2), 3), "count is 3; the weight has 2"),
        (lambda: analysis.principal_directions(torch.full((3, 2), torch.nan), 1), "data hold 6 NaN"),
    ],
)
def test_what_has_no_angle_is_refused(call, said) -> None:
    with pytest.raises(ValueError, match=said):
        call()
