"""``racecar explain``: the palindrome of a model as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import racecar
from racecar.study.core.models import make_model


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(description="print the palindrome of a model")
    made.add_argument("model", type=str, help="timm:NAME, torchvision:NAME or module:NAME of a class or function")
    made.add_argument("--input", type=str, default="3,224,224", help="shape of one sample, e.g. 3,32,32")
    made.add_argument("--layers", type=str, default=None, help="conv, all, an integer s (RR^s) or names with commas")
    made.add_argument("--start", type=str, default=None, help="module at whose output the reverse pass starts")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Print it."""
    try:
        shape = [int(n) for n in options.input.split(",")]
    except ValueError as error:
        raise ValueError(f"--input {options.input!r} is not a shape: use numbers with commas, e.g. 3,32,32") from error
    layers = layers_of(options.layers)
    rr = racecar.Racecar(make_model(options.model), torch.zeros(2, *shape), layers=layers, start=options.start)
    explanation = rr.explain()
    table = Table(title=f"The palindrome of {options.model}")
    for column in explanation.columns:
        table.add_column(column, overflow="fold")
    for step, row in zip(explanation.steps, explanation.rows(), strict=True):
        table.add_row(*row, style="" if step.mirrored else "dim")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(explanation.footer())
    return 0


def layers_of(text: str | None) -> Any:
    """``layers=`` of :class:`racecar.Racecar` from an option."""
    if text is not None and text.isdigit():
        return int(text)
    if text is not None and text not in ("conv", "all"):
        return text.split(",")
    return text
