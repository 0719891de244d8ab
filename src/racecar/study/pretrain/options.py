"""Options that ``racecar train`` and ``racecar transfer`` share."""

from __future__ import annotations

import dataclasses
import re
import typing

from jsonargparse import ArgumentParser, Namespace

from racecar.study.classification.recipe import Recipe


def add_common(parser: ArgumentParser, save_every: float = 60.0) -> None:
    """Where the images come from, the recipe, how often to save."""
    parser.add_argument("--config", action="config", help="YAML file with any of the options, - in names as _")
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="a name on the Hugging Face hub, a folder with one folder of images per class (directly or below train/ "
        "and test/), a folder with parquet files, or a .parquet file",
    )
    parser.add_argument("--out", type=str, default=None, help="folder (default: below runs/)")
    parser.add_argument(
        "--validation", type=str, default=None, help="split to measure on (default: validation or test, else a tenth)"
    )
    _both(parser, "image_column", type=str, default=None, help="column with the images, if not the only one")
    _both(parser, "label_column", type=str, default=None, help="column with the labels, if not the only one")
    _both(parser, "skip_bad", action="store_true", help="go on without images that do not decode")
    _both(parser, "save_every", type=float, default=save_every, help="seconds between saved states")
    types = typing.get_type_hints(Recipe)
    words = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", Recipe.__doc__ or "", re.MULTILINE))
    words["augmentation"] = "crop: moved by up to an eighth; flip-crop: half of them mirrored as well"
    for field in dataclasses.fields(Recipe):
        words_here = " ".join(words.get(field.name, "").replace("``", "").split())
        if types[field.name] is bool:
            _both(parser, field.name, action="store_true", help=words_here)
        else:
            _both(parser, field.name, type=types[field.name], default=field.default, help=words_here)


def recipe_of(options: Namespace) -> Recipe:
    """The recipe chosen."""
    return Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})


def _both(parser: ArgumentParser, name: str, **settings: typing.Any) -> None:
    """An option that can be written with - and with _."""
    names = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    parser.add_argument(*names, dest=name, **settings)
