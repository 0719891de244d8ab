"""Images in folders, colours by class, so that a small network can tell them apart."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from racecar.study.cli import main

HERE = Path(__file__).parent


def write_images(
    root: Path, classes: tuple[str, ...] = ("cat", "dog", "owl"), splits: tuple[str, ...] = ("train", "test"),
    count: int = 9, size: int = 8, seed: int = 0, apart: int = 100,
) -> Path:  # fmt: skip
    draw = np.random.default_rng(seed)
    for split in splits:
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 150, (size, size, 3))
                pixels[:, :, number % 3] += apart
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls ``racecar`` in this process; gives exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(w) for w in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


def environment() -> dict[str, str]:
    folders = [HERE, HERE.parents[1] / "support", *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
