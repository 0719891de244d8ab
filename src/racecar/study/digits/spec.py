"""The digits study as a command."""

from jsonargparse import ArgumentParser

from racecar.study.classification.spec import PRESETS, classification_study
from racecar.study.digits.experiment import Digits


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--nmnist", type=str, default=None, help="the published .mat file with motion blur; else made from MNIST"
    )


SPEC = classification_study(
    Digits(),
    "digits: MNIST, then n-MNIST with motion blur: Tables 3 and 4, Figures 5, 6, 16 (Section 5.1)",
    data="a folder with mnist in parquet",
    published="nmnist",
    add_options=_add_options,
    presets=PRESETS | {"full": "all images, 5 epochs, 40 minutes of a core per seed"},
)
