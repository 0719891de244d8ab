"""Pictures for a network that is trained already: files and folders, decoded as its training did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.images.find import pictures, to_stderr
from racecar.study.images.load import decode, do_not_decode
from racecar.study.images.pixels import Decoding, OneSize
from racecar.study.images.rows import Files, Rows, some_of
from racecar.study.use.network import Network


def read_pictures(
    network: Network, paths: Sequence[str | os.PathLike[str]], skip_bad: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """Pixels [N, C, H, W] in uint8 and the names of pictures.

    Args:
        network: that is to see them.
        paths: files, and folders of which all pictures count, however deep.
        skip_bad: leave out what does not decode, instead of an error.

    Raises:
        StudyError: nothing there, pictures that do not decode, or of another size where the network sees no squares.
    """
    names: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = pictures(os.fspath(path)).rows
            if not isinstance(inside, Files):
                raise StudyError(f"{path} holds tables, no pictures: give files or folders of pictures")
            names += [os.path.join(path, inside.relative(i)) for i in range(len(inside))]
        elif not path.exists():
            raise StudyError(f"{path} does not exist")
        else:
            names.append(os.fspath(path))
    if not names:
        raise StudyError("no pictures: give files or folders")
    pixels, rows = decoded(network, Files.of("", names), "what was given", skip_bad)
    return pixels, tuple(names[i] for i in rows.tolist())


def decoded(network: Network, rows: Rows, name: str, skip_bad: bool) -> tuple[Tensor, Tensor]:
    """Pixels [n, C, H, W] in uint8 and which rows [n] they are.

    Raises:
        StudyError: some do not decode, or none does.
    """
    _, height, width = network.shape
    found = decode(rows, OneSize(decoding(network), (width, height)))
    if found.bad and (not skip_bad or not len(found.rows)):
        raise do_not_decode(found.bad, len(rows), name)
    if found.bad:
        to_stderr(f"left out {len(found.bad)} images that do not decode: {some_of(found.bad)}")
    return found.pixels, found.rows


def decoding(network: Network) -> Decoding:
    """As in training, deep images scaled by its range where its model.json says one; earlier ones had none."""
    kept = network.about.get("data")
    how = kept.get("decoding", {}) if isinstance(kept, dict) else {}
    ranges = {k: (float(low), float(high)) for k, (low, high) in how.get("ranges", {}).items()}
    return Decoding(network.shape[0], network.size, ranges)
