"""Decoded images beside a study's runs: training processes map them instead of decoding again."""

from __future__ import annotations

from pathlib import Path

from racecar.study.core.folder import Study
from racecar.study.images.decoded import Images

PARTS = ("train", "test")


def keep(study: Study, train: Images, test: Images) -> None:
    """Write both, each whole or not at all."""
    for part, images in zip(PARTS, (train, test), strict=True):
        images.write(_path(study, part))


def is_kept(study: Study) -> bool:
    """Whether :func:`keep` was called."""
    return all(_path(study, part).exists() for part in PARTS)


def kept(study: Study) -> tuple[Images, Images]:
    """Training and test images as :func:`keep` wrote them.

    Raises:
        StudyError: they are missing or damaged.
    """
    train, test = (Images.read(_path(study, part)) for part in PARTS)
    return train, test


def _path(study: Study, part: str) -> Path:
    return study.folder / f"data-{part}.safetensors"
