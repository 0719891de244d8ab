"""What lies in a folder and below it: images, and what else, by kind; links are followed, litter is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from racecar.study.core.errors import StudyError
from racecar.study.core.files import is_litter
from racecar.study.images.rows import printable

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".bmp", ".dib", ".gif", ".tif"),
    *(".tiff", ".webp", ".avif", ".avifs", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga"),
    *(".ico", ".icns", ".pcx", ".psd", ".dds", ".fits", ".qoi", ".sgi", ".xbm", ".xpm"),
)


@cache
def openable() -> frozenset[str]:
    """The suffixes of images that Pillow opens here; HEIC with pillow-heif alone."""
    from PIL import Image

    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
    formats = {suffix: name for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    return frozenset(s for s in SUFFIXES if s in formats)


@dataclass
class Folder:
    """A folder as it lies on the disk; hidden files and what systems leave everywhere are not in it.

    Attributes:
        name: its own.
        path: below the root; "" for the root.
        images: names of files that have an image's suffix and can be opened.
        others: what else lies in it, by kind.
        folders: in it.
    """

    name: str
    path: str
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    folders: list[Folder] = field(default_factory=list)

    def files(self) -> Iterator[str]:
        """Paths of all images below it, from the root, in the order of their names."""
        for name in self.images:
            yield os.path.join(self.path, name)
        for folder in self.folders:
            yield from folder.files()

    def count(self) -> int:
        """Images below it."""
        return len(self.images) + sum(f.count() for f in self.folders)

    def left_out(self) -> Counter[str]:
        """What else lies below it."""
        return sum((f.left_out() for f in self.folders), self.others)

    def filled(self) -> list[Folder]:
        """The folders in it that hold images, somewhere below."""
        return [f for f in self.folders if f.count()]


def scan(root: str) -> Folder:
    """Everything below a folder; links are followed, except those that lead back up.

    Raises:
        StudyError: a folder cannot be read.
    """
    return _scan(root, Folder(os.path.basename(os.path.abspath(root)), ""), ())


def _scan(root: str, folder: Folder, above: tuple[tuple[int, int], ...]) -> Folder:
    place = os.path.join(root, folder.path)
    try:
        about = os.stat(place)
        here = (*above, (about.st_dev, about.st_ino))
        with os.scandir(place) as listed:
            entries = sorted(listed, key=lambda e: e.name)
        for entry in entries:
            child = Folder(entry.name, os.path.join(folder.path, entry.name))
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith(".") or (is_litter(entry.name) and not entry.name.endswith("~")):
                continue
            if entry.is_symlink() and _leads_nowhere(entry):
                if suffix in SUFFIXES:
                    folder.others["broken link"] += 1
                else:  # it may have been a class
                    child.others["broken link"] += 1
                    folder.folders.append(child)
            elif entry.is_dir():
                inner = entry.stat()
                if (inner.st_dev, inner.st_ino) in here:
                    folder.others["link that leads back up"] += 1
                else:
                    folder.folders.append(_scan(root, child, here))
            elif not entry.is_file():
                folder.others["no file"] += 1
            elif suffix in openable():
                folder.images.append(entry.name)
            elif not is_litter(entry.name):
                folder.others[printable(suffix) if len(suffix) > 1 else "without extension"] += 1
    except OSError as error:
        raise StudyError(f"{printable(place)} cannot be read: {error.strerror}") from error
    return folder


def _leads_nowhere(link: os.DirEntry[str]) -> bool:
    try:
        link.stat()
    except OSError:
        return True
    return False
