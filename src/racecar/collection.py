"""Python's collector of cyclic garbage, paused where nothing but a graph grows."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No cyclic garbage is collected while it lasts.

    Tracing and mirroring make some hundred thousand objects that stay, and the collector looks through all of them
    again and again: a fifth of the time of a deep model.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
