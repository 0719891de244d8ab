"""Order, augmentation and sharing of batches, against the same thing done image by image."""

import pytest
import torch

from racecar.study.classification.batches import Batches, Normalisation
from racecar.study.images.decoded import Images

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = Images(
    torch.randint(0, 256, (22, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR),
    torch.arange(22) % 4,
    tuple("abcd"),
)
UNIT = Normalisation.unit(3)


def test_normalisation_is_mean_zero_deviation_one_and_unit_is_a_255th() -> None:
    batch = Normalisation.of(IMAGES)(IMAGES.pixels)
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(UNIT(IMAGES.pixels), IMAGES.pixels.float() / 255)
    assert UNIT(IMAGES.pixels, channels_last=True).is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_holds_every_image_once_with_its_label() -> None:
    batches = Batches(IMAGES, 8, 0, UNIT)
    parts = list(batches.epoch(0))
    assert [len(labels) for _, labels, _ in parts] == [8, 8, 6]
    assert len(batches) == 3
    seen = torch.cat([b for b, _, _ in parts])
    labels = torch.cat([y for _, y, _ in parts])
    original = UNIT(IMAGES.pixels)
    where = [(original == image).flatten(1).all(1).nonzero().item() for image in seen]
    assert sorted(where) == list(range(22))
    assert labels.tolist() == IMAGES.labels[where].tolist()


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([y for _, y, _ in Batches(IMAGES, 5, seed, UNIT).epoch(epoch)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9


@pytest.mark.parametrize("augmentation", ["none", "crop", "flip-crop"])
def test_an_epoch_continues_in_its_middle(augmentation) -> None:
    batches = Batches(IMAGES, 5, 1, UNIT, augmentation)
    whole = list(batches.epoch(4))
    rest = list(batches.epoch(4, 2))
    assert len(rest) == len(whole) - 2
    for (a, y, _), (b, z, _) in zip(whole[2:], rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(y, z)


@pytest.mark.parametrize(("size", "weights"), [(8, [(1, 1), (1, 1), (1, 1)]), (7, [(8 / 7, 6 / 7)] * 3)])
def test_two_processes_see_together_what_one_sees(size, weights) -> None:
    one = list(Batches(IMAGES, size, 2, UNIT, "flip-crop").epoch(0))
    two = [list(Batches(IMAGES, size, 2, UNIT, "flip-crop", rank=r, world=2).epoch(0)) for r in range(2)]
    for number, (a, b) in enumerate(zip(*two, strict=True)):
        batch, labels, weight = one[number]
        assert weight == 1
        assert torch.equal(a[0], batch[0::2])
        assert torch.equal(b[0], batch[1::2])
        assert torch.equal(a[1], labels[0::2])
        assert (a[2], b[2]) == pytest.approx(weights[number])
    # 22 images in batches of 7 leave one, which two processes cannot share.
    assert len(two[0]) == 3


def test_cropped_images_are_shifted_copies_and_flipped_ones_mirrored() -> None:
    plain = torch.cat([b for b, _, _ in Batches(IMAGES, 22, 0, UNIT).epoch(0)])
    shapes = set()
    for augmentation in ("crop", "flip-crop"):
        found = torch.cat([b for b, _, _ in Batches(IMAGES, 22, 0, UNIT, augmentation).epoch(0)])
        mirrored = 0
        for before, after in zip(plain, found, strict=True):
            candidates = {}
            for flip in (False, True):
                framed = torch.nn.functional.pad(before.flip(2) if flip else before, (2,) * 4)
                for dy in range(5):
                    for dx in range(5):
                        candidates[flip, dy, dx] = framed[:, dy : dy + 16, dx : dx + 16]
            (match,) = [k for k, v in candidates.items() if torch.equal(v, after)]
            mirrored += match[0]
            shapes.add(match[1:])
        assert 0 < mirrored < 22 if augmentation == "flip-crop" else mirrored == 0
    assert len(shapes) > 10
