"""Options of ``racecar train`` and ``racecar transfer``, and of what reads images as they do."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from racecar.study.classification.extras import Extras
from racecar.study.classification.recipe import Recipe
from racecar.study.core.options import add_both, add_fields, chosen
from racecar.study.pretrain.source import Source
from racecar.study.pretrain.tracking import Tracker


def add_common(parser: ArgumentParser, save_every: float = 60.0, own_labels: bool = True) -> None:
    """Where the images come from, the recipe, how often to save."""
    parser.add_argument("--config", action="config", help="YAML file with any of the options, - in names as _")
    add_source(parser, own_labels)
    add_streaming(parser)
    parser.add_argument("--out", type=str, default=None, help="folder (default: below runs/)")
    add_both(parser, "save_every", type=float, default=save_every, help="seconds between saved states")
    add_fields(
        parser,
        Recipe,
        augmentation="crop: moved by up to an eighth; flip-crop: half of them mirrored as well; by torchvision: "
        "resized-crop: a random part, stretched, half of them mirrored; randaugment, trivialaugment: that, then these",
    )
    add_fields(parser, Extras)
    parser.add_argument(
        "--freeze",
        nargs="+",
        type=str,
        default=[],
        help="modules that stay as they are, statistics included; * and ? stand for more than one",
    )
    parser.add_argument(
        "--log",
        nargs="+",
        type=str,
        default=["tensorboard"],
        help=f"what is told of every epoch: {', '.join(get_args(Tracker))}; none: nothing",
    )


def add_source(parser: ArgumentParser, own_labels: bool = True, required: bool = True) -> None:
    """Where the images come from and how they are read: :class:`Source`.

    Args:
        parser: of the command.
        own_labels: whether ``--labels`` is a file of them, and nothing else.
        required: whether ``--data`` must be said.
    """
    parser.add_argument(
        "--data",
        type=str,
        required=required,
        default=None,
        help="a name on the Hugging Face hub, a folder with one folder of images per class (directly or below train/ "
        "and test/), a folder with parquet files, or a .parquet file",
    )
    parser.add_argument(
        "--validation", type=str, default=None, help="split to measure on (default: validation or test, else a tenth)"
    )
    labels = ("--labels-file", "--labels_file")
    parser.add_argument(
        *(("--labels", *labels) if own_labels else labels),
        dest="labels_file",
        type=str,
        default=None,
        help="CSV, TSV or JSON lines naming the images of the folder and their labels (path, label)",
    )
    add_both(parser, "image_column", type=str, default=None, help="column with the images, if not the only one")
    add_both(parser, "label_column", type=str, default=None, help="column with the labels, if not the only one")
    add_both(parser, "skip_bad", action="store_true", help="go on without images that do not decode")


def add_streaming(parser: ArgumentParser) -> None:
    """Whether images are held in memory."""
    parser.add_argument(
        "--stream", action="store_true", help="decode images on the way even if they fit into memory; the same batches"
    )
    parser.add_argument("--decoders", type=int, default=None, help="processes that decode then (default: cores − 1)")


def source_of(options: Namespace) -> Source:
    """The images chosen; a command that holds them in memory has no options for the way."""
    return Source(**{f.name: getattr(options, f.name) for f in fields(Source) if f.name in options})


def recipe_of(options: Namespace) -> Recipe:
    """The recipe chosen."""
    return Recipe(**chosen(options, Recipe))


def extras_of(options: Namespace) -> Extras:
    """What was chosen beside the recipe."""
    return Extras(**chosen(options, Extras))


def trackers_of(options: Namespace) -> list[str]:
    """What is told of every epoch."""
    return [name for name in options.log if name != "none"]
