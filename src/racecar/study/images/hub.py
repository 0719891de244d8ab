"""What :mod:`datasets` reads: the hub, parquet files, folders that ``save_to_disk`` wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Opened, Part
from racecar.study.images.rows import Encoded, printable

LABELS = ("label", "fine_label", "labels", "class", "target")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def is_saved(folder: str) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    names = ("dataset_dict.json", "state.json")
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def may_be_name(source: str) -> bool:
    """Whether a data set on the hub can be called so."""
    return _NAME.fullmatch(source) is not None


def tables(source: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The splits of a data set, not decoded yet.

    Args:
        source: a name on the hub, a parquet file, a folder with parquet files or one that ``save_to_disk`` wrote.
        tell: called before the hub is asked.

    Raises:
        StudyError: nothing there, or not readable.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        if os.path.isfile(source):
            return dict(datasets.load_dataset("parquet", data_files={"train": source}))
        if os.path.isdir(source) and is_saved(source):
            loaded = datasets.load_from_disk(source)
            return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
        if os.path.isdir(source):
            return dict(datasets.load_dataset(source))
        tell(f"{source}: no folder of that name here, asking the Hugging Face hub for a data set called so")
        return _of_hub(source)
    except StudyError:
        raise
    except Exception as error:  # datasets raises many kinds, down to pyarrow's
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StudyError(f"cannot read the data set {source}: {printable(said)}") from error


def _of_hub(source: str) -> dict[str, Any]:
    """From the hub, or where it cannot be reached from what was fetched before; in vain, that takes no half minute."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    reached = True
    try:
        huggingface_hub.HfApi().dataset_info(source, timeout=10)
    except GatedRepoError:
        pass  # datasets says what to do
    except RepositoryNotFoundError as error:
        raise StudyError(
            f"{source} is neither a folder here nor a data set on the hub, unless a private one: hf auth login"
        ) from error
    except Exception:  # no network, a name server's, a proxy's or the hub's fault
        reached = False
    if reached:
        return dict(datasets.load_dataset(source))
    known = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        return dict(datasets.load_dataset(source))
    except Exception as error:
        raise StudyError(
            f"{source} is no folder here, and the hub cannot be reached; nothing of that name was fetched before"
        ) from error
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = known


def read(source: str, layout: str, image: str | None, label: str | None, tell: Callable[[str], None]) -> Opened:
    """A labelled data set.

    Args:
        source, tell: see :func:`tables`.
        layout: a word for it.
        image, label: columns, if not the only ones.

    Raises:
        StudyError: nothing there, or not readable.
    """
    found = tables(source, tell)
    return Opened(source, layout, {n: partial(_part, t, source, image, label) for n, t in found.items()})


def _part(table: Any, source: str, image: str | None, label: str | None) -> Part:
    import datasets

    image, label = image or image_column(table, source), label or _label_column(table, source)
    for name in (image, label):
        if name not in table.features:
            raise StudyError(f"{source} has no column {name!r}, only {', '.join(table.features)}")
    feature = table.features[label]
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return Part(encoded(table, image), table[label][:], names)


def encoded(table: Any, image: str) -> Encoded:
    """The images of a table."""
    import datasets

    return Encoded(table.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image)


def image_column(table: Any, source: str) -> str:
    """The name of the one column that holds images.

    Raises:
        StudyError: none, or several.
    """
    import datasets

    found = [n for n, f in table.features.items() if isinstance(f, datasets.Image) or n in ("image", "img")]
    if len(found) != 1:
        raise StudyError(f"{source}: which column holds the images? It has {', '.join(table.features)}: --image-column")
    return found[0]


def _label_column(table: Any, source: str) -> str:
    import datasets

    found = [n for n, f in table.features.items() if isinstance(f, datasets.ClassLabel)]
    if len(found) != 1:
        found = [n for n in LABELS if n in table.features][:1]
    if not found:
        raise StudyError(f"{source}: which column holds the labels? It has {', '.join(table.features)}: --label-column")
    return found[0]
