"""Options of the commands that use a trained classifier."""

from __future__ import annotations

from jsonargparse import ArgumentParser


def add_run(parser: ArgumentParser) -> None:
    """Which training, and that its code may be run."""
    parser.add_argument(
        "--from", dest="run", type=str, required=True, help="the folder of a training: the --out of `racecar train`"
    )
    parser.add_argument(
        "--model",
        type=str,
        default=None,
        help="the training's module:NAME, to say that this code may be run; timm and torchvision need none",
    )


def add_pictures(parser: ArgumentParser, required: bool = True) -> None:
    """Which pictures."""
    words = "files, and folders of which all pictures count"
    parser.add_argument("pictures", nargs="+" if required else "*", type=str, help=words)
