"""Pictures drawn for tests, and where data sets keep what they have read."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image


def draw(folder: Path, count: int = 4, suffix: str = ".png", start: int = 0, shade: int = 0) -> Path:
    """Pictures of 6 × 6 pixels, each another, with a mean that says its shade."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        generator = np.random.default_rng(i + 100 * shade)
        array = np.clip(generator.normal(40 + 60 * shade, 15, (6, 6, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{i:03d}{suffix}", "PNG")
    return folder


def plain(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    """A folder per class."""
    for shade, name in enumerate(names):
        draw(root / name, count, shade=shade)
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
