"""Labelled images for a network that is trained already: decoded as it was trained, labels by its classes' names."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from racecar.study.core.errors import StudyError
from racecar.study.core.folder import read_description
from racecar.study.images.find import find_known
from racecar.study.images.found import Split
from racecar.study.images.splits import held_out
from racecar.study.pretrain.source import Source
from racecar.study.use.network import Network
from racecar.study.use.pictures import decoded

HELD_OUT = "held out of the training: a tenth, stratified"


@dataclass(frozen=True)
class Shown:
    """Images and what they show.

    Attributes:
        pixels: [N, C, H, W], uint8.
        labels: [N], int64, by the network's classes.
        names: of the images.
        words: which images these are.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]
    words: str


def labelled(network: Network, data: str | os.PathLike[str] | Source | None) -> Shown:
    """A data set's validation split; without one, all of it, but of a training's own data what that held out.

    Args:
        network: that is to see them.
        data: a folder, a parquet file or a name on the hub; None: what the network was trained on.

    Raises:
        StudyError: they are not as they must be.
    """
    source = own_source(network) if data is None else Source.of(data)
    split, name = find_known(
        source.data,
        network.classes,
        split=source.validation,
        labels_file=source.labels_file,
        image=source.image_column,
        label=source.label_column,
    )
    path = network.folder / "study.json"
    known, listed = _measured_on(read_description(path) if path.exists() else {})
    if listed is not None and name is None:
        drawn = split.take(held_out(split.labels, source.data, 0).nonzero()[:, 0])
        if (len(drawn), drawn.checksum()) == listed:  # the others need not be decoded
            return _read(network, drawn, source.skip_bad, HELD_OUT)
    words = f"{f'split {name}' if name else 'all images'} of {split.name.rpartition(' (')[0]}"
    found = _read(network, split, source.skip_bad, words)
    if listed is not None and (len(split), split.checksum()) == listed:
        return replace(found, words=f"{found.words}, as in training")
    if known is not None and name is None:
        out = held_out(found.labels, source.data, 0)
        held = _take(found, out, HELD_OUT)
        if _fingerprint(held) == known:
            return held
    if known is not None and _fingerprint(found) == known:
        return replace(found, words=f"{found.words}, as in training")
    if data is None:
        raise StudyError(
            f"the images of {source.data} are not those that {network.folder} was measured on: give others by --data"
        )
    return found


def own_source(network: Network) -> Source:
    """Where the images of a training came from, as its study.json says.

    Raises:
        StudyError: it does not say so, or they are gone.
    """
    for folder in (network.folder, network.folder.parent):
        path = folder / "study.json"
        config = read_description(path)["config"] if path.exists() else {}
        if isinstance(config.get("data"), str):
            known = {f.name for f in fields(Source)}
            kept = network.about.get("data")
            layout = kept.get("layout") if isinstance(kept, dict) else None
            if layout not in (None, "the hub") and not Path(config["data"]).exists():
                raise StudyError(f"{config['data']}, which {network.folder} was trained on, is not there: give --data")
            return Source(**{k: v for k, v in config.items() if k in known})
    raise StudyError(f"{network.folder} does not say where its images came from: give --data")


def _read(network: Network, split: Split, skip_bad: bool, words: str) -> Shown:
    pixels, rows = decoded(network, split.rows, split.name, skip_bad)
    taken = split if len(rows) == len(split) else split.take(rows)
    names = tuple(taken.rows.name(i) for i in range(len(taken)))
    return Shown(pixels, taken.labels, names, words)


def _take(found: Shown, mask: Tensor, words: str) -> Shown:
    names = tuple(n for n, m in zip(found.names, mask.tolist(), strict=True) if m)
    return Shown(found.pixels[mask], found.labels[mask], names, words)


def _fingerprint(found: Shown) -> tuple[int, ...]:
    parts = (zlib.crc32(t.contiguous().numpy().data) for t in (found.pixels, found.labels))
    return (len(found.labels), *parts)


def _measured_on(content: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """What a study.json keeps of the validation images, see :meth:`racecar.study.pretrain.data.Data.fingerprints`.

    Returns:
        Their number and the checksums of pixels and labels; where those are not kept, number and checksum of their
        files. None for what is not there.
    """
    images, listed = content.get("images"), content.get("listed")
    if isinstance(images, list) and len(images) == 6:
        return (images[1], images[4], images[5]), None
    return None, (listed[1], listed[3]) if isinstance(listed, list) and len(listed) == 5 else None
