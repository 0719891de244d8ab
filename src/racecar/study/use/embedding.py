"""``racecar embed``: images as vectors of a trained network, and what simple readers make of them."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from racecar.analysis import fit_probe, knn_accuracy
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_bytes, write_tensors
from racecar.study.pretrain.source import Source
from racecar.study.use.features import features
from racecar.study.use.labelled import own_source
from racecar.study.use.network import BATCH, Network
from racecar.study.use.pictures import read_pictures

NEIGHBOURS = 20


@dataclass(frozen=True)
class Embedding:
    """What :func:`racecar.study.embed` has made.

    Attributes:
        vectors: [N, D], float32.
        names: of the images.
        labels: [N], int64, by ``classes``; None for pictures.
        classes: names of the data set's own classes, by label.
        validation: [N], which images are of the validation split; None for pictures.
        layer: whose output the vectors are; None: what enters the last layer.
    """

    vectors: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    validation: Tensor | None = None
    layer: str | None = None

    def probe(self) -> dict[str, float]:
        """Accuracy on the validation images of a linear probe and of the nearest neighbours among the training images.

        ``"linear probe"``: logistic regression (:func:`racecar.analysis.fit_probe`, l2 = 1e-3); ``"20 neighbours"``: by
        cosine, the majority (fewer where there are fewer images).

        Raises:
            StudyError: there are no labels, or features of which nothing can be trained.
        """
        if self.labels is None or self.validation is None:
            raise StudyError("a probe needs labels: give --data instead of pictures")
        train, test = (self.vectors[m] for m in (~self.validation, self.validation))
        labels, wanted = (self.labels[m] for m in (~self.validation, self.validation))
        k = min(NEIGHBOURS, len(train))
        try:
            return {
                "linear probe": fit_probe(train, labels, len(self.classes)).accuracy(test, wanted),
                f"{k} neighbours": knn_accuracy(train, labels, test, wanted, k),
            }
        except (ValueError, RuntimeError) as error:
            raise StudyError(f"no probe of these features: {error}") from error

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write ``.safetensors`` (vectors, labels, validation; names and classes as JSON in its metadata) or
        ``.parquet`` (a row per image).

        Raises:
            StudyError: another ending, or the disk refuses.
        """
        target = Path(path)
        if target.suffix == ".safetensors":
            self._safetensors(target)
        elif target.suffix == ".parquet":
            self._parquet(target)
        else:
            raise StudyError(f"{target}: features are written as .safetensors or .parquet")
        return target

    def _safetensors(self, path: Path) -> None:
        import json

        tensors = {"vectors": self.vectors}
        if self.labels is not None and self.validation is not None:
            tensors |= {"labels": self.labels, "validation": self.validation}
        said = {"names": self.names, "classes": self.classes, "layer": self.layer or "what enters the last layer"}
        write_tensors(path, tensors, {k: json.dumps(v, ensure_ascii=False) for k, v in said.items()})

    def _parquet(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        count, width = self.vectors.shape
        flat = pyarrow.array(self.vectors.contiguous().numpy().reshape(-1))
        columns = {"name": pyarrow.array(self.names, pyarrow.string())}
        if self.labels is not None and self.validation is not None:
            columns["label"] = pyarrow.array([self.classes[i] for i in self.labels.tolist()], pyarrow.string())
            split = ["validation" if v else "train" for v in self.validation.tolist()]
            columns["split"] = pyarrow.array(split, pyarrow.string())
        columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, width)
        assert len(self.names) == count
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
        write_bytes(path, buffer.getvalue())


def embed(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str] | Source | None = None,
    *,
    pictures: Sequence[str | os.PathLike[str]] = (),
    layer: str | None = None,
    model: str | None = None,
    skip_bad: bool = False,
) -> Embedding:
    """Turn images into vectors.

    Args:
        run: the folder of a training.
        data: labelled images, whose classes may be others than the run's: training and validation images are embedded.
            None, and no pictures: what the run was trained on.
        pictures: files and folders, in place of ``data``; they have no labels.
        layer: the module whose output is taken, averaged over places; None: what enters the last layer.
        model: the run's ``module:NAME``, to say that this code may be run; timm and torchvision need none.
        skip_bad: leave out pictures that do not decode; of ``data``, its :class:`racecar.study.Source` says that.

    Raises:
        StudyError: run, images or layer are not as they must be.
    """
    network = Network.open(run, model)
    if pictures:
        if data is not None:
            raise StudyError("give --data or pictures, not both")
        pixels, names = read_pictures(network, pictures, skip_bad)
        return Embedding(features(network, pixels, layer), names, layer=layer)
    source = own_source(network) if data is None else Source.of(data)
    channels, height, width = network.shape
    loaded = source.read(network.size, channels)
    if loaded.train.shape != network.shape:
        raise StudyError(f"images of {source.data} are not {height} × {width} pixels, as the network sees them")
    parts = (loaded.train, loaded.validation)
    vectors = torch.cat([features(network, pixels, layer) for part in parts for pixels, _ in part.in_order(BATCH)])
    rows = (loaded.found.train.rows, loaded.found.validation.rows)
    names = tuple(r.name(i) for r in rows for i in range(len(r)))
    validation = torch.arange(len(vectors)) >= len(loaded.train)
    labels = torch.cat([part.labels for part in parts])
    return Embedding(vectors, names, labels, loaded.train.classes, validation, layer)
