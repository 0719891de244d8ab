"""What torch.export prints beside the error that it raises: pages of graph, before the one line that a user needs."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from typing import Any

_SAID = {  # by logger, how what is raised as well begins
    "torch.fx.experimental.symbolic_shapes": "Unable to find user code",
    "torch._subclasses.fake_tensor": "failed while attempting to run meta",
}


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_SAID[record.name])


@contextlib.contextmanager
def errors_said_once() -> Iterator[None]:
    """While it lasts, torch does not log what it raises."""
    for name in _SAID:
        logging.getLogger(name).addFilter(_is_news)
    try:
        yield
    finally:
        for name in _SAID:
            logging.getLogger(name).removeFilter(_is_news)


@contextlib.contextmanager
def export_prints_nothing() -> Iterator[None]:
    """While it lasts, the tracer does not print the graph that it has so far; what a model prints is printed."""
    module: Any = importlib.import_module("torch.export._trace")  # here: it takes as long as all the rest of torch
    before = vars(module).get("print", print)
    module.print = lambda *args, **kwargs: None
    try:
        with errors_said_once():
            yield
    finally:
        module.print = before
