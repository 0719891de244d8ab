"""What torch.export prints beside the error that it raises: pages of graph, before the one line that a user needs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch.export._trace

_LOG = "torch.fx.experimental.symbolic_shapes"


def _no_advice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Unable to find user code")


@contextlib.contextmanager
def export_prints_nothing() -> Iterator[None]:
    """While it lasts, the tracer does not print the graph that it has so far; what a model prints is printed."""
    module: Any = torch.export._trace
    log = logging.getLogger(_LOG)
    before = vars(module).get("print", print)
    module.print = lambda *args, **kwargs: None
    log.addFilter(_no_advice)
    try:
        yield
    finally:
        module.print = before
        log.removeFilter(_no_advice)
