"""``racecar predict``: what a trained classifier takes pictures for, as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.files import write_text
from racecar.study.core.options import add_both
from racecar.study.use.options import add_pictures, add_run
from racecar.study.use.predicting import predict


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(allow_abbrev=False, description="say what pictures show, as CSV")
    add_run(made)
    add_pictures(made)
    made.add_argument("--top", type=int, default=5, help="answers per picture, with their probabilities")
    made.add_argument("--out", type=str, default=None, help="CSV file (default: to standard output)")
    add_both(made, "skip_bad", action="store_true", help="go on without pictures that do not decode")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Write the answers."""
    if options.top < 1:
        raise ValueError(f"--top must be at least 1, not {options.top}")
    found = predict(options.run, options.pictures, model=options.model, skip_bad=options.skip_bad)
    text = found.csv(options.top)
    if options.out is None:
        print(text, end="")
    else:
        write_text(Path(options.out), text)
        print(f"{options.out}: {len(found.names)} pictures")
    return 0
