"""Images are held where they fit; it is said before any is decoded; what does not decode is left out either way."""

import numpy as np
import pytest
import torch
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images import fitting, load
from racecar.study.images.decoded import Images
from racecar.study.images.fitting import load_fitting, room
from racecar.study.images.streamed import Streamed

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path) -> str:
    """2 · 10 images of 8 × 8, 3840 bytes decoded."""
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(10):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "d" / name / f"{i}.png")
    return str(tmp_path / "d")


@pytest.mark.parametrize(
    ("free", "asked", "kind", "said"),
    [
        (7680, None, Images, "20 images of 3 × 8 × 8 take 3.75 KiB decoded, 7.5 KiB are free: held in memory"),
        (7679, None, Streamed, "3.75 KiB decoded, 7.5 KiB are free: decoded by this process while the network trains"),
        (2**40, True, Streamed, "take 3.75 KiB decoded: decoded by this process while the network trains"),
        (1, False, Images, "take 3.75 KiB decoded: held in memory"),
    ],
)
def test_what_fits_is_held_and_that_is_said_first(free, asked, kind, said, folder, monkeypatch) -> None:
    told: list[str] = []

    def decode(*given):
        assert said in told[-1]
        return real(*given)

    real = load.decode
    monkeypatch.setattr(load, "decode", decode)
    monkeypatch.setattr(fitting, "room", lambda device: free)
    loaded = load_fitting(folder, stream=asked, decoders=0, tell=told.append)
    assert isinstance(loaded.train, kind)
    assert said in told[-1]
    assert "train 18 / validation 2" in told[-2]


def test_processes_that_share_a_machine_hold_it_several_times(folder, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "room", lambda device: 7680)
    told: list[str] = []
    assert isinstance(load_fitting(folder, sharing=2, decoders=0, tell=told.append).train, Streamed)
    assert "take 7.5 KiB decoded" in told[-1]


def test_there_is_room_here() -> None:
    assert 2**20 < room(CPU) < 2**50


def test_a_group_with_a_limit(monkeypatch) -> None:
    """Of its 1000 bytes 700 are used, 300 of these by cached files."""
    files = {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 400\nfile 300\n"}
    monkeypatch.setattr(fitting, "_group", files.__getitem__)
    with pytest.raises(KeyError):
        room(CPU)  # version 1 is asked too
    files |= {"memory/memory.limit_in_bytes": "max"}
    files |= {"memory/memory.usage_in_bytes": "0"}
    assert room(CPU) == 600


def test_what_does_not_decode_is_left_out_either_way(folder, tmp_path) -> None:
    for name in ("a/3.png", "b/9.png"):
        (tmp_path / "d" / name).write_bytes(b"\x89PNG")
    found = [
        load_fitting(folder, stream=stream, decoders=0, skip_bad=True, tell=lambda text: None)
        for stream in (False, True)
    ]
    assert found[0].bad == found[1].bad
    assert len(found[0].bad) == 2
    assert found[0].about() == found[1].about()
    assert found[0].listed() == found[1].listed()
    for held, streamed in ((found[0].train, found[1].train), (found[0].validation, found[1].validation)):
        assert torch.equal(torch.cat([p for p, _ in streamed.in_order(3)]), held.pixels)
        assert torch.equal(streamed.labels, held.labels)
    loaded = load_fitting(folder, stream=True, decoders=0, tell=lambda text: None)
    with pytest.raises(StudyError, match=r"does not decode .*mend or replace it"):
        loaded.train.statistics()
    with pytest.raises(StudyError, match=r"2 of 20 images in .* do not decode"):
        load_fitting(folder, stream=False, tell=lambda text: None)
