"""``racecar embed``: images as vectors of a trained network, in a file; and what simple readers make of them."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from racecar.study.pretrain.options import add_source, add_streaming, source_of
from racecar.study.use.embedding import embed
from racecar.study.use.options import add_pictures, add_run


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(allow_abbrev=False, description="write images as vectors of a trained network")
    add_run(made)
    add_pictures(made, required=False)
    add_source(made, required=False)
    made.add_argument("--out", type=str, default="features.safetensors", help=".safetensors or .parquet")
    made.add_argument(
        "--layer", type=str, default=None, help="module whose output is taken (default: what enters the last layer)"
    )
    made.add_argument(
        "--probe",
        action="store_true",
        help="also read the classes off the vectors: a linear probe and nearest neighbours, trained on the training "
        "images, measured on the validation images",
    )
    add_streaming(made)
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Embed, write, and probe where that is asked for."""
    found = embed(
        options.run,
        source_of(options) if options.data else None,
        pictures=options.pictures or (),
        layer=options.layer,
        model=options.model,
        skip_bad=options.skip_bad,
    )
    probed = found.probe() if options.probe else {}  # before anything is written
    path = found.write(options.out)
    count, width = found.vectors.shape
    print(f"{path}: {count} vectors of {width} numbers")
    for name, accuracy in probed.items():
        print(f"{name}: {accuracy:.4f} of the validation images")
    return 0
