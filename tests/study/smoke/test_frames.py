"""Which pictures train, which test, and in what order they come."""

import pytest
import torch

from racecar.study.smoke.frames import batch, lowered, of_captures, of_simulations, raised, spaced


def numbered(simulations: int, frames: int, size: int = 4) -> torch.Tensor:
    """Every frame is filled with its own number."""
    numbers = torch.arange(simulations * frames, dtype=torch.float32).view(simulations, frames, 1, 1, 1)
    return numbers.expand(-1, -1, 1, size, size)


def test_training_and_test_have_no_simulation_in_common() -> None:
    found = of_simulations(numbered(20, 6), 0.1, None)
    assert found.train.shape == (12, 1, 4, 4)
    assert found.test.shape == (108, 1, 4, 4)
    assert set(found.train[:, 0, 0, 0].tolist()) == set(range(12))
    assert set(found.test[:, 0, 0, 0].tolist()) == set(range(12, 120))


def test_test_frames_are_spaced_over_all_simulations() -> None:
    found = of_simulations(numbered(5, 10), 0.2, 8)
    assert [int(n) for n in found.test[:, 0, 0, 0]] == [10, 15, 20, 25, 30, 35, 40, 45]


@pytest.mark.parametrize(("share", "train"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_both_sides_have_a_simulation_whatever_the_share(share, train) -> None:
    assert len(of_simulations(numbered(4, 5), share, None).train) == 5 * train


def test_a_single_simulation_is_refused() -> None:
    with pytest.raises(ValueError, match="make two or more"):
        of_simulations(numbered(1, 5), 0.1, None)


def test_captures_train_on_one_camera_and_test_on_the_others() -> None:
    view = torch.arange(5).repeat_interleave(12)
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(-1, 3, 4, 8)
    found = of_captures(pixels, view, 0.1, None)
    assert (found.train[:, 0, 0, 0] * 255).round().tolist() == [0, 2, 4, 6, 8, 10]
    assert (found.test[:, 0, 0, 0] * 255).round().tolist() == list(range(12, 60))


def test_captures_of_one_camera_train_on_its_first_frames() -> None:
    found = of_captures(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.zeros(10), 0.3, None)
    assert (len(found.train), len(found.test)) == (3, 7)
    with pytest.raises(ValueError, match="give two or more"):
        of_captures(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1), 0.3, None)


def test_every_epoch_has_every_frame_once_in_an_order_of_its_own() -> None:
    frames = numbered(1, 12)[0]
    epochs = [torch.cat([batch(frames, 4, 0, 3 * e + i)[:, 0, 0, 0] for i in range(3)]).tolist() for e in range(3)]
    assert all(sorted(e) == list(range(12)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    frames = torch.rand(9, 1, 4, 4)
    assert torch.equal(batch(frames, 4, 3, 17), batch(frames, 4, 3, 17))
    assert not torch.equal(batch(frames, 4, 3, 17), batch(frames, 4, 3, 18))
    assert not torch.equal(batch(frames, 4, 3, 17), batch(frames, 4, 4, 17))
    assert len(batch(frames, 64, 0, 0)) == 9  # no more than there are


@pytest.mark.parametrize(("shape", "symmetries"), [((4, 4), 8), ((4, 8), 4)])
def test_frames_are_flipped_and_rotated_in_all_ways_that_keep_their_shape(shape, symmetries) -> None:
    picture = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(1, 1, *shape)
    seen = {tuple(batch(picture, 1, 0, step).flatten().tolist()) for step in range(200)}
    assert len(seen) == symmetries
    assert all(sorted(s) == picture.flatten().tolist() for s in seen)
    turned = {
        tuple(torch.rot90(picture, k, (2, 3)).flatten().tolist()) for k in (range(4) if symmetries == 8 else (0, 2))
    }
    assert turned < seen


def test_low_resolution_is_the_mean_of_four_by_four_pixels() -> None:
    high = torch.rand(2, 1, 8, 8)
    low = lowered(high)
    assert torch.allclose(low[1, 0, 1, 0], high[1, 0, 4:8, 0:4].mean())
    assert raised(low).shape == high.shape
    assert torch.allclose(lowered(raised(low)), low)


def test_spaced_takes_all_when_fewer_are_there() -> None:
    assert len(spaced(torch.zeros(3, 1), 10)) == 3
    assert len(spaced(torch.zeros(3, 1), None)) == 3
