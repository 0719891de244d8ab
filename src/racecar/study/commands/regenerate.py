"""``racecar regenerate``: what the reverse pass makes of pictures, layer by layer, and its errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from racecar.study.core.files import write_bytes, write_text
from racecar.study.core.options import add_both
from racecar.study.use.options import add_pictures, add_run
from racecar.study.use.regenerating import regenerate

SCORE = (
    "The error says how far the reverse pass is from a picture. It grows with fine detail as well as with what is "
    "unlike the training images: as a score of anomaly, measure it on pictures that you know before you rely on it."
)


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(
        allow_abbrev=False, description=f"what the reverse pass makes of pictures, and its errors. {SCORE}"
    )
    add_run(made)
    add_pictures(made)
    made.add_argument("--out", type=str, default="regenerated.png", help="PNG: at most 16 pictures, layer by layer")
    made.add_argument("--errors", type=str, default=None, help="CSV file for all errors (default: standard output)")
    made.add_argument(
        "--beside",
        type=str,
        default=None,
        help="labelled images, such as the training's --data, of which 96 are seen with the pictures: batch norm in "
        "the reverse pass needs company, and an error says more beside theirs",
    )
    add_both(made, "skip_bad", action="store_true", help="go on without pictures that do not decode")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Regenerate, draw, write the errors."""
    from racecar.study.report.figures import png

    found = regenerate(
        options.run, options.pictures, beside=options.beside, model=options.model, skip_bad=options.skip_bad
    )
    write_bytes(Path(options.out), png(found.figure()))
    if options.errors is None:
        print(found.csv(), end="")
    else:
        write_text(Path(options.errors), found.csv())
    print(f"racecar: {options.out}: {len(found.names)} pictures, {found.words}. {SCORE}", file=sys.stderr)
    return 0
