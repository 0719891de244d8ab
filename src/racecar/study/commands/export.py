"""``racecar export``: a trained classifier as ONNX, as TorchScript, or as a folder that timm opens."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from racecar.study.use.exporting import Format, export
from racecar.study.use.options import add_run


def parser(argv: Sequence[str]) -> ArgumentParser:
    """The command's options."""
    made = ArgumentParser(
        allow_abbrev=False, description="write a trained classifier in another format, open it again and compare"
    )
    add_run(made)
    made.add_argument(
        "--format",
        type=Format,
        required=True,
        help="onnx and torchscript: a file that takes pixels between 0 and 1 and normalises by itself; timm: a folder "
        "for timm.create_model('local-dir:…', pretrained=True)",
    )
    made.add_argument("--out", type=str, default=None, help="file or folder (default: in the run's folder)")
    return made


def run(parser: ArgumentParser, options: Namespace) -> int:
    """Write it, and say how far it answers as the network does."""
    done = export(options.run, options.format, options.out, model=options.model)
    print(f"{done.path}: answers as the network does, but for {done.difference:.1e} of the largest logit\n\n{done.use}")
    return 0
