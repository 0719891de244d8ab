"""Files that are whole or not there: written under a temporary name, then renamed; nothing is unpickled."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from racecar.study.core.errors import StudyError


def _nothing() -> None:
    pass


def write_atomically(path: Path, write: Callable[[Path], None], check: Callable[[], None] = _nothing) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Args:
        path: of the file.
        write: given the temporary one.
        check: called last; where it raises, the old file stays.

    Raises:
        StudyError: the folder or the disk refuses; the old file is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode is for one's eyes only
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        check()
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StudyError(f"cannot write {path}: {error}. What was there before is unchanged.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed process has left half-written: :func:`write_atomically`'s or safetensors' own."""
    return re.fullmatch(r"\..+\.(json|safetensors|html|md|png)\.\w{8}|\.tmp\w{6}", path.name) is not None


def is_empty(folder: Path, beside: Collection[str] = ()) -> bool:
    """Whether a folder holds nothing but leftovers, what systems and editors put into any folder, and some names."""
    return folder.is_dir() and all(p.name in beside or is_leftover(p) or is_litter(p.name) for p in folder.iterdir())


_LITTER = (
    r"\.nfs.*|\.fuse_hidden.*|\.DS_Store|\._.*|\.Trash.*|Thumbs\.db|ehthumbs\.db|desktop\.ini|Icon\r|lost\+found|.*~"
    r"|__MACOSX|@eaDir|#recycle|\$RECYCLE\.BIN|System Volume Information"
)


def is_litter(name: str) -> bool:
    """Whether systems, editors and archives put files or folders of this name anywhere."""
    return re.fullmatch(_LITTER, name, re.IGNORECASE) is not None


def write_text(path: Path, text: str, check: Callable[[], None] = _nothing) -> None:
    """Write UTF-8 atomically."""
    write_bytes(path, text.encode(), check)


def write_bytes(path: Path, content: bytes, check: Callable[[], None] = _nothing) -> None:
    """Write bytes atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write, check)


def write_json(path: Path, content: object, check: Callable[[], None] = _nothing) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", check)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StudyError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read: {error}. Delete it to redo what it held.") from error


Kind = Callable[[Any], bool]


def read_object(
    path: Path,
    what: str,
    wanted: Mapping[str, Kind],
    also: Mapping[str, Kind] | None = None,
    remedy: str = "bring it back, or choose another --out",
) -> Any:
    """Read a JSON object whose fields are what they have to be.

    Args:
        path: of the file.
        what: it describes, for the message.
        wanted: fields that must be there, and what their values must be.
        also: fields that may be there.
        remedy: what to do where it is not so.

    Raises:
        StudyError: missing, damaged, or of something else, with the fields that are wrong.
    """
    content = read_json(path)
    fields = content if isinstance(content, dict) else {}
    wrong = [k for k, right in wanted.items() if k not in fields or not right(fields[k])]
    wrong += [k for k, right in (also or {}).items() if k in fields and not right(fields[k])]
    if wrong or not isinstance(content, dict):
        fault = f" ({', '.join(wrong)} missing or wrong)" if wrong else ""
        raise StudyError(f"{path} does not describe {what}{fault}: {remedy}")
    return content


def is_text(value: object) -> bool:
    """A string."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    """A whole number that is not negative."""
    return type(value) is int and value >= 0  # type: ignore[operator]


def is_object(value: object) -> bool:
    """A JSON object."""
    return isinstance(value, dict)


def are_texts(value: object) -> bool:
    """A list of strings."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def are_labels(value: object) -> bool:
    """A JSON object of strings."""
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    check: Callable[[], None] = _nothing,
) -> None:
    """Write safetensors atomically, with a checksum of tensors and metadata beside the metadata."""
    content = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    said = dict(metadata or {})
    said["checksum"] = _checksum(content, said)

    def write(place: Path) -> None:
        save_file(content, place, said)
        _order_metadata(place)

    write_atomically(path, write, check)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        StudyError: missing, truncated, not safetensors, or not what was written.
    """
    return read_tensors_and_metadata(path)[0]


def read_tensors_and_metadata(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read safetensors with what was written beside the tensors.

    Raises:
        StudyError: missing, truncated, not safetensors, or not what was written.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise StudyError(f"{path} cannot be read: {error}. Delete it to redo what it held.") from error
    written = metadata.pop("checksum", None)  # files of others, and older ones, have none
    if written is not None and written != _checksum(tensors, metadata):
        raise StudyError(f"{path} is damaged: it does not hold what was written. Delete it to redo what it held.")
    return tensors, metadata


def _order_metadata(path: Path) -> None:
    """Same content, same bytes: safetensors writes the metadata's keys in a random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # else a character is escaped in another way: the file is right as it is
            file.seek(8)
            file.write(text.ljust(length))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    total = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"crc32 {total:08x}"
