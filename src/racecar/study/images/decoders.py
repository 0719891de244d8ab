"""Processes that decode images while something else goes on: started once, told what to decode, followed in order."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from racecar.study.core.errors import StudyError
from racecar.study.images.found import Split
from racecar.study.images.labelled import Change
from racecar.study.images.pixels import NotDecodableError
from racecar.study.images.rows import Content, printable

NO_SEED = -1
_AHEAD = 4  # pieces that each process has ready
Key = tuple[int, int, int, Change | None]  # split, row, seed, and what is done by it


class Reader(Protocol):
    """How an encoded image becomes pixels; other processes must be able to load it."""

    def __call__(self, content: Content, seed: int) -> np.ndarray:
        """[H, W, C] in uint8; the seed is for readers that cut at random, -1 if there is none.

        Raises:
            NotDecodableError: it is no image, or damaged.
        """


@dataclass(frozen=True)
class Wrong:
    """What is wrong with an image. Handed over in its place: an exception would come with the other process's trace."""

    row: int
    why: str
    image: bool = True  # else there is something wrong with the machine


class _Decoding(Dataset[Tensor | Wrong]):
    def __init__(self, splits: Sequence[Split], reader: Reader) -> None:
        self.splits, self.reader = splits, reader

    def __getitem__(self, key: Key) -> Tensor | Wrong:
        number, row, seed, change = key
        try:
            pixels = torch.from_numpy(self.reader(self.splits[number].rows[row], seed)).permute(2, 0, 1)
        except (NotDecodableError, OSError) as error:
            return Wrong(row, printable(str(error)))
        except StudyError as error:
            return Wrong(row, str(error), image=False)
        return pixels if change is None else change(pixels[None], seeds=torch.tensor([seed]))[0]


def _collated(items: list[Tensor | Wrong]) -> Tensor | list[Wrong]:
    wrong = [i for i in items if isinstance(i, Wrong)]
    return wrong or torch.stack([i for i in items if isinstance(i, Tensor)])


def _end(pieces: Any) -> None:
    """End the processes behind a loader's iterator."""
    pieces._shutdown_workers()
    for process in pieces._workers:
        process.kill()


def _undisturbed(worker: int) -> None:
    """A signal to the whole group is for the training process, which saves its state; its end is the decoders' too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Asked:
    """What is to be decoded next."""

    def __init__(self) -> None:
        self.keys: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)


def _nothing() -> None:
    pass


class Decoders:
    """Processes that decode the images of some splits; started when first asked, they live on.

    Args:
        splits: what there is to decode.
        reader: how.
        processes: how many; 0 decodes in this one.
    """

    def __init__(self, splits: Sequence[Split], reader: Reader, processes: int) -> None:
        self.splits, self.processes = splits, processes
        self._decoding = _Decoding(splits, reader)
        self._asked = _Asked()
        self._loader: DataLoader | None = None
        self._end: Callable[[], object] = _nothing
        self._pass = 0

    def __call__(self, keys: Iterable[list[Key]]) -> Iterator[Tensor | list[Wrong]]:
        """Decoded pieces in order, [n, C, H, W] in uint8, or what is wrong with some of their images.

        One pass at a time: a new one ends the one before. ``keys`` must not hold these decoders, which would not end.

        Raises:
            StudyError: a process is gone.
        """
        self._pass = mine = self._pass + 1
        self._asked.keys = keys
        if fresh := self._loader is None:
            self._loader = self._started()
        pieces = iter(self._loader)
        if fresh and self.processes:  # they ignore SIGTERM, so that Python would wait for them at its end without one
            self._end = weakref.finalize(self, _end, pieces)
            atexit.register(self._end)
        while True:
            try:
                with processes_gone():
                    piece = next(pieces, None)
            except (StudyError, OSError, EOFError) as error:  # the last two where what it was handing over is cut off
                self._loader = None
                self._end()  # else torch raises it again when others end, wherever this process is then
                raise error if isinstance(error, StudyError) else _gone(error) from error
            if piece is None:
                return
            yield piece
            if mine != self._pass:
                raise RuntimeError("another pass over these images has begun")

    def here(self, keys: list[Key]) -> Tensor | list[Wrong]:
        """A piece decoded by this process, which a few images are faster by."""
        return _collated([self._decoding[key] for key in keys])

    def _started(self) -> DataLoader:
        return DataLoader(
            self._decoding,
            batch_sampler=self._asked,  # type: ignore[arg-type]
            num_workers=self.processes,
            collate_fn=_collated,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.processes > 0,
            prefetch_factor=_AHEAD if self.processes else None,
            worker_init_fn=_undisturbed,
            multiprocessing_context=multiprocessing.get_context("spawn") if self.processes else None,
        )


@contextmanager
def processes_gone() -> Iterator[None]:
    """The end of a decoding process, of which torch tells wherever this one is, as an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise _gone(error) from error


def _gone(error: BaseException) -> StudyError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return StudyError(
        f"a process that decodes images is gone ({said}). It may have run out of memory, or of /dev/shm: go on "
        'with fewer, --decoders. In a script, training needs `if __name__ == "__main__":`'
    )
